import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from stack.errors import StackError
from stack.launcher import Stack
from stack.processes import wait_until
from stack.services import ServiceLine, Services
from stack.supervisor import read_status
from tests.stack.conftest import NAMED, MakeStack, processes_of

pytestmark = pytest.mark.processes
PROCFILE = """
# what the others call
sandbox: python -m http.server --bind 127.0.0.1 ${SANDBOX_PORT}
steady: sleep 1000
parent: sh -c 'sleep 1001 & wait' FOLDER
"""


class Supervised:
    """Services of a Procfile of the test's own, beside servers that the environment names (so that
    none is started).
    """

    def __init__(self, stack: Stack, procfile: Path) -> None:
        self.stack = stack
        self.services = Services(stack, procfile)

    def line(self, name: str) -> ServiceLine:
        return next(line for line in self.services.status() if line.name == name)

    def pid(self, name: str) -> int:
        return int((self.stack.run_dir.pids / f"{name}.pid").read_text())

    def becomes(self, name: str, state: str) -> bool:
        return wait_until(lambda: self.line(name).state == state, seconds=10)


@pytest.fixture
def supervised(make_stack: MakeStack, folder: Path) -> Iterator[Supervised]:
    with supervise(make_stack, folder, PROCFILE) as running:
        yield running


@contextmanager
def supervise(make_stack: MakeStack, folder: Path, text: str) -> Iterator[Supervised]:
    stack = make_stack(NAMED)
    stack.up()
    procfile = folder / "Procfile"
    procfile.write_text(text.replace("FOLDER", str(folder)))
    running = Supervised(stack, procfile)
    try:
        yield running
    finally:
        running.services.down()


class TestInterrupted:
    def test_before_the_supervisor_has_said_who_it_is_nothing_stays(self, supervised: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> bool:
            parent = int((supervised.stack.run_dir.pids / "supervisor.pid").read_text())
            wait_until(lambda: len(psutil.Process(parent).children()) == 3, seconds=30)  # its services are up
            raise KeyboardInterrupt

        monkeypatch.setattr("stack.services.wait_until", interrupted)

        with pytest.raises(KeyboardInterrupt):
            supervised.services.up()

        assert not processes_of(supervised.stack.run_dir.folder)


class TestSignals:
    def test_however_many_come_at_whatever_moment_it_still_obeys(self, supervised: Supervised) -> None:
        supervised.services.up()
        supervisor = int((supervised.stack.run_dir.pids / "supervisor.pid").read_text())
        before = supervised.pid("steady")

        for _ in range(5_000):
            os.kill(supervisor, signal.SIGCHLD)
            time.sleep(0.0002)  # each by itself: signals that come together are one
        supervised.services.restart(["steady"])

        assert supervised.pid("steady") != before


class TestUp:
    def test_starts_all_with_pid_files_and_listens_where_it_should(self, supervised: Supervised) -> None:
        supervised.services.up()

        assert {line.state for line in supervised.services.status()} == {"running"}
        assert supervised.pid("steady") == supervised.line("steady").pid

    def test_a_second_time_changes_nothing(self, supervised: Supervised) -> None:
        supervised.services.up()
        before = supervised.services.status()

        supervised.services.up()

        assert supervised.services.status() == before

    def test_leaves_the_sandbox_out_when_a_counterparty_is_real(self, make_stack: MakeStack, folder: Path) -> None:
        stack = make_stack({**NAMED, "FUND_URL": "https://fund.example"})
        stack.up()
        procfile = folder / "Procfile"
        procfile.write_text("sandbox: sleep 1000\nsteady: sleep 1000\n")
        services = Services(stack, procfile)

        services.up()

        assert {line.name: line.state for line in services.status()} == {"sandbox": "stopped", "steady": "running"}
        services.down()

    def test_refuses_without_a_stack_and_for_unknown_names(self, stack: Stack, supervised: Supervised) -> None:
        with pytest.raises(StackError, match="no such service: ghost"):
            supervised.services.up(["ghost"])
        stack.down()
        with pytest.raises(StackError, match="stack up"):
            supervised.services.up()


class TestWhatDied:
    def test_is_started_again(self, supervised: Supervised) -> None:
        supervised.services.up()
        killed = supervised.pid("steady")

        os.kill(killed, signal.SIGKILL)

        assert wait_until(lambda: supervised.line("steady").restarts == 1 and supervised.line("steady").state == "running", seconds=10)
        assert supervised.pid("steady") != killed
        assert supervised.line("steady").exit_code == -signal.SIGKILL

    def test_takes_its_children_along(self, supervised: Supervised, folder: Path) -> None:
        supervised.services.up()
        group = supervised.pid("parent")

        os.kill(group, signal.SIGKILL)

        assert supervised.becomes("parent", "waiting") or supervised.line("parent").restarts
        assert wait_until(lambda: not group_lives(group), seconds=5)

    def test_starts_again_after_a_growing_pause(self, make_stack: MakeStack, folder: Path) -> None:
        with supervise(make_stack, folder, "crasher: sh -c 'date +%s.%N; exit 3'\n") as supervised:
            with pytest.raises(StackError, match="crasher didn't start"):
                supervised.services.up()
            log = folder / "logs" / "crasher.log"

            assert wait_until(lambda: len(log.read_text().split()) >= 3, seconds=10)

            first, second, third = map(float, log.read_text().split()[:3])
            assert third - second > second - first
            assert supervised.line("crasher").exit_code == 3

    def test_stays_stopped_after_exit_code_78_until_told_otherwise(self, make_stack: MakeStack, folder: Path) -> None:
        with supervise(make_stack, folder, "quitter: sh -c 'test -e FOLDER/mended && exec sleep 1000; exit 78'\n") as supervised:
            with pytest.raises(StackError, match="quitter didn't start"):
                supervised.services.up()
            assert supervised.line("quitter") == ServiceLine("quitter", "halted", None, 0, 78)

            (folder / "mended").touch()
            supervised.services.up(["quitter"])

            assert supervised.line("quitter").state == "running"


class TestDown:
    def test_stops_one_and_only_that(self, supervised: Supervised) -> None:
        supervised.services.up()

        supervised.services.down(["steady"])

        assert supervised.line("steady").state == "stopped"
        assert supervised.line("sandbox").state == "running"

    def test_leaves_nothing_even_when_the_supervisor_was_killed(self, supervised: Supervised, folder: Path) -> None:
        supervised.services.up()
        groups = [supervised.pid(name) for name in ("sandbox", "steady", "parent")]
        os.kill(supervised.pid("supervisor"), signal.SIGKILL)
        assert wait_until(lambda: supervised.line("steady").state == "unsupervised", seconds=5)

        supervised.services.down()

        assert wait_until(lambda: not any(map(group_lives, groups)), seconds=5)
        assert processes_of(folder) == []
        assert list((folder / "pids").iterdir()) == []


class TestRestart:
    def test_gives_a_new_process(self, supervised: Supervised) -> None:
        supervised.services.up()
        before = supervised.pid("steady")

        supervised.services.restart(["steady"])

        assert supervised.pid("steady") != before
        assert supervised.line("steady").state == "running"


READY = "from base.notify import ready; import time; ready(); time.sleep(1000)"
INSTANCES = f"""
clerk: env CLERK=$INSTANCE python -c '{READY}' FOLDER
mute: sleep 1000
"""


class TestInstances:
    def test_a_second_one_runs_beside_the_first_with_a_number_of_its_own(self, make_stack: MakeStack, folder: Path) -> None:
        with supervise(make_stack, folder, INSTANCES) as supervised:
            supervised.services.up(["clerk"])

            supervised.services.up(["clerk.2"])

            numbers = [psutil.Process(supervised.pid(name)).environ()["CLERK"] for name in ("clerk", "clerk.2")]
            assert numbers == ["1", "2"]
            assert [line.name for line in supervised.services.status()] == ["clerk", "clerk.2", "mute"]

    def test_counts_say_how_many_run(self, make_stack: MakeStack, folder: Path) -> None:
        with supervise(make_stack, folder, INSTANCES) as supervised:
            supervised.services = Services(supervised.stack, folder / "Procfile", counts="clerk=2 mute=0")

            supervised.services.up()

            assert {line.name: line.state for line in supervised.services.status()} == {"clerk": "running", "clerk.2": "running", "mute": "stopped"}


class TestReplace:
    def test_the_successor_is_ready_before_the_old_one_is_told_to_stop(self, make_stack: MakeStack, folder: Path) -> None:
        trace = "import sys, time, signal; from base.notify import ready; say = lambda what: print(what, flush=True)"
        stops = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(say(chr(46))))"
        with supervise(make_stack, folder, f"clerk: python -c '{trace}; {stops}; say(chr(43)); ready(); time.sleep(1000)' FOLDER\n") as supervised:
            supervised.services.up()
            before = supervised.pid("clerk")
            log = folder / "logs" / "clerk.log"
            assert wait_until(lambda: log.read_text() == "+\n", seconds=10)

            supervised.services.replace(["clerk"])

            assert log.read_text() == "+\n+\n.\n"
            assert supervised.pid("clerk") == supervised.line("clerk").pid != before
            assert not group_lives(before)
            assert os.getpriority(os.PRIO_PROCESS, supervised.pid("clerk")) == 0

    def test_a_successor_that_dies_leaves_the_old_one_running(self, make_stack: MakeStack, folder: Path) -> None:
        with supervise(make_stack, folder, "clerk: sh -c 'test -e FOLDER/broken && exit 3; exec sleep 1000'\n") as supervised:
            supervised.services.up()
            before = supervised.pid("clerk")
            (folder / "broken").touch()

            with pytest.raises(StackError, match="its old process runs on"):
                supervised.services.replace(["clerk"])

            assert (supervised.pid("clerk"), supervised.line("clerk").state) == (before, "running")

    def test_a_successor_doesnt_outlive_a_supervisor_that_was_killed(self, make_stack: MakeStack, folder: Path) -> None:
        with supervise(make_stack, folder, INSTANCES) as supervised:
            supervised.services.up(["mute"])
            supervised.services.request({"mute": "replace"})
            assert supervised.becomes("mute", "replacing")
            groups = [identity.pid for identity in read_status(supervised.stack.run_dir)[1]["mute"].identities]
            os.kill(supervised.pid("supervisor"), signal.SIGKILL)

            supervised.services.down()

            assert len(groups) == 2
            assert wait_until(lambda: not any(map(group_lives, groups)), seconds=5)

    def test_one_that_is_told_to_go_down_meanwhile_leaves_nothing(self, make_stack: MakeStack, folder: Path) -> None:
        with supervise(make_stack, folder, INSTANCES) as supervised:
            supervised.services.up(["mute"])
            supervised.services.request({"mute": "replace"})
            assert supervised.becomes("mute", "replacing")

            supervised.services.down(["mute"])

            assert supervised.line("mute").state == "stopped"


def group_lives(group: int) -> bool:
    """Whether a process of the group still runs; one that only waits to be taken off the table by
    init doesn't.
    """
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False
