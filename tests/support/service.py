"""The whole service as an operator runs it: servers, sandbox and every process, in a run folder of
its own, reached by its commands alone.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import redis

from benchmarks import machine
from stack.errors import StackError
from stack.launcher import Stack
from stack.procfile import read_procfile
from stack.rundir import CHECKOUT
from stack.services import Services
from tests.support.servers import forget_durability
from tests.support.waiting import wait_until

COMMAND_SECONDS_MAX = 150
ALL = tuple(read_procfile(CHECKOUT / "Procfile"))
WITHOUT_WEB = tuple(name for name in ALL if name != "web")  # two processes fewer to start, where no page is looked at


@dataclass
class LiveService:
    """A running service."""

    folder: Path
    environment: Mapping[str, str]

    def manage(self, *arguments: str, check: bool = True, seconds: float = COMMAND_SECONDS_MAX, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of manage.py to its end, so long at most."""
        command = [sys.executable, "manage.py", *arguments]
        environment = {**self.environment, **more}
        ended = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
        assert not check or ended.returncode == 0, f"{' '.join(arguments)} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
        return ended

    def place(self, count: int, users: int, rate: float = 50, seed: int = 1) -> None:
        """Places mixed orders, at a rate, and returns when all are placed."""
        self.manage("place_orders", f"--count={count}", f"--users={users}", f"--rate={rate}", f"--seed={seed}", "--json")

    @contextmanager
    def placing(self, count: int, users: int, rate: float = 50, seed: int = 1, seconds: float = COMMAND_SECONDS_MAX) -> Iterator[None]:
        """The same while something happens; `seconds` is how long it may take."""
        options = [f"--count={count}", f"--users={users}", f"--rate={rate}", f"--seed={seed}", "--json"]
        command = [sys.executable, "manage.py", "place_orders", *options]
        with subprocess.Popen(command, cwd=CHECKOUT, env=dict(self.environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            yield
            assert process.wait(seconds) == 0

    def held(self) -> float:
        """Orders a second that the service clears on this machine; places TRIAL_IN_ALL orders."""
        return machine.held(lambda count, rate: self.place(count, users=100, rate=rate), self.variable("DATABASE_URL"))

    def audit(self, wait: int = 60) -> dict[str, Any]:
        """The audit's report; the test fails unless it passes."""
        ended = self.manage("audit", "--json", f"--wait={wait}", check=False)
        report: dict[str, Any] = json.loads(ended.stdout)
        assert ended.returncode == 0, f"audit ended with {ended.returncode}: {ended.stdout}\n{self.log_tails()}"
        return report

    def cleared(self) -> int:
        """How many orders are cleared by now."""
        return int(self.query("SELECT count(*) FROM clearing_clearing WHERE state = 'cleared'")[0][0])

    @contextmanager
    def workers(self, count: int = 1, *, threads: int, **settings: str) -> Iterator[None]:
        """So many workers beside the supervised processes, as the Procfile has them, with settings
        of their own; stopped at the end.
        """
        options = ["-P", "threads", "-c", str(threads), "--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [sys.executable, "-m", "celery", "-A", "acceptance_site", "worker", "-X", "ops,clearing.suspects", *options]
        environment = {**self.environment, **settings}
        with (self.folder / "logs" / "worker.log").open("ab") as log:
            started = [
                subprocess.Popen([*command, "-n", f"w{number}@test"], cwd=CHECKOUT, env=environment, stdout=log, stderr=log)
                for number in range(count)
            ]
            try:
                yield
            finally:
                for process in started:
                    process.terminate()
                for process in started:
                    process.wait(60)

    def pid(self, name: str) -> int:
        """The process of a service."""
        return int((self.folder / "pids" / f"{name}.pid").read_text())

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to a service, and waits until the supervisor has started its successor."""
        old = self.pid(name)
        os.kill(old, how)
        wait_until(lambda: self.pid_or_none(name) not in {None, old}, seconds=30)

    def pid_or_none(self, name: str) -> int | None:
        """The process of a service; None while it has none."""
        try:
            return self.pid(name)
        except (FileNotFoundError, ValueError):
            return None

    def variable(self, name: str) -> str:
        """A variable of the stack."""
        lines = (self.folder / "stack.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)[name].strip("'\"")

    def control(self, path: str, method: str = "POST", **fields: object) -> None:
        """Asks the sandbox for something: `/sandbox/faults`, `/counter/v1/orders/batch`."""
        url = self.variable("COUNTER_URL").rsplit("/", 1)[0] + path
        body = json.dumps(fields).encode() if fields else None
        urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"}, method=method), timeout=30).close()

    def set_fault(self, **fields: object) -> None:
        """Orders a fault at the sandbox."""
        self.control("/sandbox/faults", "POST", **fields)

    def clear_faults(self) -> None:
        """From now on the sandbox does what it is asked to."""
        self.control("/sandbox/faults", "DELETE")

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the service's database."""
        session = psycopg2.connect(self.variable("DATABASE_URL"))
        try:
            with session.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchall()
        finally:
            session.close()

    def broker(self) -> "redis.Redis":
        """A client of the broker."""
        return redis.Redis.from_url(self.variable("BROKER_URL"))

    def log_tails(self) -> str:
        """The last lines of every log, for a test that failed."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text().splitlines()[-8:]) for path in sorted((self.folder / "logs").glob("*.log"))
        )


@contextmanager
def live_service(folder: Path, *, services: Collection[str] = ALL, durable: bool = False, **settings: str) -> Iterator[LiveService]:
    """Brings these services of the Procfile up from nothing, with these settings, and takes
    everything down.

    `durable`: PostgreSQL waits for its disk at each commit, as in production.
    """
    shutil.rmtree(folder, ignore_errors=True)
    inherited = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    service = LiveService(folder, {**inherited, "RUN_DIR": str(folder), **settings})
    stack = Stack(folder, service.environment)
    try:
        stack.up()
        if not durable:
            forget_durability(service.variable("DATABASE_URL"))
        service.manage("migrate", "--verbosity=0")
        service.manage("first_start", "--sandbox")
        if services:
            service.manage("stack", "services", "up", *services)
        yield service
    finally:
        with suppress(StackError):  # a failure to start is what to tell
            Services(stack).down()
        stack.down()
        shutil.rmtree(folder, ignore_errors=True)
