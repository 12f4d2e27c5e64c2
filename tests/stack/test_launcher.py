import os
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg2
import pytest
import redis
from kafka import KafkaAdminClient

from stack.errors import StackError
from stack.launcher import Stack
from stack.processes import Identity, wait_until
from stack.rundir import CHECKOUT
from tests.stack.conftest import NAMED, MakeStack, processes_of

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="root's ways: run as root")

pytestmark = pytest.mark.processes
OTHERS_NAMED = {name: NAMED[name] for name in ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS")}


@pytest.fixture
def broker_alone(make_stack: MakeStack) -> Stack:
    """A stack of the one server that starts quickly, for what holds for each of them."""
    return make_stack(OTHERS_NAMED)


def pids(stack: Stack) -> dict[str, int | None]:
    return {server.name: server.pid for server in stack.status()}


def states(stack: Stack) -> dict[str, str]:
    return {server.name: server.state for server in stack.status()}


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


class TestUp:
    def test_every_server_answers_with_the_settings_that_the_service_relies_on(self, stack: Stack) -> None:
        variables = stack.up()

        durable = query(variables["DATABASE_URL"], "SELECT current_setting('fsync'), current_setting('synchronous_commit')")
        assert durable == [("on", "on")]
        assert query(variables["DATABASE_URL"], "SELECT current_setting('timezone'), current_setting('server_encoding')") == [("UTC", "UTF8")]
        with redis.Redis.from_url(variables["BROKER_URL"]) as broker:
            kept = broker.config_get("append*")
            assert (kept["appendonly"], kept["appendfsync"]) == ("yes", "everysec")
            assert broker.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        log = KafkaAdminClient(bootstrap_servers=variables["KAFKA_BOOTSTRAP_SERVERS"])
        [topic] = log.describe_topics(["counter.sync_order"])
        log.close()
        assert len(topic["partitions"]) == 4

    def test_a_second_time_changes_nothing(self, make_stack: MakeStack) -> None:
        first = make_stack()
        variables = first.up()
        before = pids(first)

        second = make_stack(variables)  # as settings.py hands stack.env on

        assert second.up() == variables
        assert pids(second) == before

    def test_two_at_once_start_each_server_once(self, make_stack: MakeStack, folder: Path) -> None:
        with ThreadPoolExecutor() as pool:
            first, second = pool.map(lambda stack: stack.up(), [make_stack(OTHERS_NAMED), make_stack(OTHERS_NAMED)])

        assert first == second
        assert len([line for line in processes_of(folder) if "valkey-server" in line]) == 1

    def test_a_killed_server_comes_back_where_it_was_with_its_data(self, stack: Stack) -> None:
        variables = stack.up()
        query(variables["DATABASE_URL"], "CREATE TABLE kept (id int)")
        for pid in pids(stack).values():
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: set(states(stack).values()) == {"down"}, seconds=5)

        assert stack.up() == variables

        assert query(variables["DATABASE_URL"], "SELECT count(*) FROM kept") == [(0,)]

    def test_a_frozen_server_is_replaced(self, broker_alone: Stack) -> None:
        broker_alone.up()
        frozen = pids(broker_alone)["valkey"]
        assert frozen is not None
        os.kill(frozen, signal.SIGSTOP)

        broker_alone.up()

        assert states(broker_alone)["valkey"] == "up"
        assert pids(broker_alone)["valkey"] != frozen

    def test_servers_whose_record_was_lost_are_replaced(self, stack: Stack, folder: Path) -> None:
        stack.up()
        (folder / "stack.json").unlink()

        stack.up()

        assert set(states(stack).values()) == {"up"}
        assert len([line for line in processes_of(folder) if "noida-db" in line]) == 1

    def test_a_record_of_a_machine_that_was_killed_harms_no_other_process(self, stack: Stack) -> None:
        stack.up()
        memory = stack.run_dir.recall()
        stack.down()
        me = Identity.of(os.getpid())
        memory.servers = {name: Identity(me.pid, me.started_at - 1_000, identity.marker) for name, identity in memory.servers.items()}
        stack.run_dir.remember(memory)

        stack.up()

        assert set(states(stack).values()) == {"up"}

    def test_a_remembered_port_that_somebody_took_is_replaced(self, broker_alone: Stack) -> None:
        broker_alone.up()
        port = broker_alone.run_dir.recall().ports["valkey"]
        broker_alone.down()

        with socket.create_server(("127.0.0.1", port)):
            variables = broker_alone.up()

        assert not variables["BROKER_URL"].endswith(f":{port}/0")
        assert states(broker_alone)["valkey"] == "up"

    def test_a_port_that_is_taken_for_a_moment_is_waited_for(self, broker_alone: Stack) -> None:
        before = broker_alone.up()
        broker_alone.down()
        port = broker_alone.run_dir.recall().ports["valkey"]

        holder = socket.create_server(("127.0.0.1", port))
        threading.Timer(0.5, holder.close).start()

        assert broker_alone.up()["BROKER_URL"] == before["BROKER_URL"]

    def test_it_says_why_a_server_does_not_start(self, broker_alone: Stack, folder: Path) -> None:
        broker_alone.up()
        broker_alone.down()
        (folder / "valkey" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")

        with pytest.raises(StackError, match=r"valkey didn't start(.|\n)*manifest"):
            broker_alone.up()


class TestNamedServers:
    def test_are_not_started(self, make_stack: MakeStack, folder: Path) -> None:
        stack = make_stack(NAMED)

        variables = stack.up()

        assert set(states(stack).values()) == {"named"}
        assert not NAMED.keys() & variables.keys()
        assert processes_of(folder) == []

    def test_leave_the_other_kinds_to_the_stack(self, make_stack: MakeStack) -> None:
        stack = make_stack(OTHERS_NAMED)

        stack.up()

        assert states(stack) == {"postgres": "named", "valkey": "up", "kafka": "named"}

    def test_one_real_counterparty_means_that_none_is_the_sandbox(self, make_stack: MakeStack) -> None:
        variables = make_stack({**NAMED, "FUND_URL": "https://fund.example"}).up()

        assert not {"COUNTER_URL", "FUND_URL", "TRADING_URL"} & variables.keys()


class TestDown:
    def test_leaves_no_process_and_keeps_ports_and_data(self, stack: Stack, folder: Path) -> None:
        variables = stack.up()
        query(variables["DATABASE_URL"], "CREATE TABLE kept (id int)")

        stack.down()

        assert processes_of(folder) == []
        assert set(states(stack).values()) == {"down"}
        assert stack.up() == variables
        assert query(variables["DATABASE_URL"], "SELECT count(*) FROM kept") == [(0,)]

    def test_without_a_stack_is_fine(self, stack: Stack) -> None:
        stack.down()

        with pytest.raises(StackError, match="stack up"):
            stack.environment()


@as_root
class TestAsRoot:
    def test_postgres_runs_as_nobody(self, stack: Stack) -> None:
        stack.up()

        pid = pids(stack)["postgres"]

        assert Path(f"/proc/{pid}").owner() == "nobody"

    def test_a_private_checkout_sends_postgres_to_a_temporary_folder_and_back(self, stack: Stack, folder: Path) -> None:
        folder.parent.chmod(0o700)
        variables = stack.up()
        query(variables["DATABASE_URL"], "CREATE TABLE kept (id int)")
        elsewhere = Path((folder / "postgres" / "elsewhere").read_text())
        assert (elsewhere / "data" / "PG_VERSION").exists()

        stack.down()

        assert not elsewhere.exists()
        assert (folder / "postgres" / "data" / "PG_VERSION").exists()
        variables = stack.up()
        assert query(variables["DATABASE_URL"], "SELECT count(*) FROM kept") == [(0,)]

    def test_an_ordinary_user_can_do_it_too(self, folder: Path) -> None:
        python = next((path for path in (sys.executable, "/usr/bin/python3") if usable_by_nobody(path)), None)
        if python is None:
            pytest.skip("user nobody can reach no Python of this version: run the tests as an ordinary user as well")
        folder.mkdir()
        os.chown(folder, 65534, 65534)

        script = "import os; from stack.launcher import *; s = Stack(Path(os.environ['RUN_DIR']), {}); s.up(); print(s.status()); s.down()"
        done = run_as_nobody([python, "-c", script], RUN_DIR=str(folder))

        assert done.stdout.count("state='up'") == 3, done.stderr
        assert processes_of(folder) == []


def usable_by_nobody(python: str) -> bool:
    try:
        return run_as_nobody([python, "-c", "import psycopg2, kafka, stack.launcher"]).returncode == 0
    except PermissionError:
        return False


def run_as_nobody(command: list[str], **variables: str) -> "subprocess.CompletedProcess[str]":
    packages = os.pathsep.join([str(CHECKOUT), sysconfig.get_path("purelib")])
    environ = {"PYTHONPATH": packages, "PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=environ, cwd="/", user=65534, group=65534, extra_groups=[], timeout=60
    )
