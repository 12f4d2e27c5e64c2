"""Runs one command with a deadline, keeps what it wrote, and leaves nothing of it running.

This process adopts what its commands' children leave behind (PR_SET_CHILD_SUBREAPER), so that
"nothing is left running" can be read from the table of processes.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from stack.rundir import CHECKOUT
from tests.smoke.judging import CheckError, Ended

PR_SET_CHILD_SUBREAPER: Final = 36
POLL_SECONDS: Final = 0.05
GRACE_SECONDS: Final = 25.0  # make's traps take a service down
SETTLE_SECONDS: Final = 5.0  # for what is just about to end
# What a developer's shell may have set: names of servers, and the variables of `make smoke`.
NOT_INHERITED: Final = (
    *("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MAKE_TERMOUT", "MAKE_TERMERR", "ONLY", "SKIP", "JSON"),
    *("DATABASE_URL", "BROKER_URL", "KAFKA_BOOTSTRAP_SERVERS", "LEADERSHIP_URL", "COUNTER_URL", "FUND_URL", "TRADING_URL"),
    *("ENVIRONMENT", "PROCESSES", "PROCESS_ROLE", "RUN_DIR"),
)


def adopt_orphans() -> None:
    """From now on what our descendants leave behind becomes our child."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Of a command that keeps its state in the folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return {**inherited, "RUN_DIR": str(folder), **variables}


@dataclass
class Runner:
    """Runs commands one after another; their output goes to files of the folder. `kept`: processes
    that an earlier command left running on purpose. What ran before the first command isn't ours.
    """

    folder: Path
    kept: set[int] = field(default_factory=set)
    _others: set[int] = field(default_factory=lambda: {child.pid for child in psutil.Process().children(recursive=True)})

    def run(self, name: str, command: Sequence[str], variables: Mapping[str, str], seconds_max: float, until: str = "") -> Ended:
        """The command's end. Raises CheckError when it doesn't end in time, or can't be started."""
        self.folder.mkdir(parents=True, exist_ok=True)
        output, errors = self.files(name)
        with output.open("wb") as out, errors.open("wb") as err:
            try:
                process = subprocess.Popen(
                    command,
                    cwd=CHECKOUT,
                    env=environment(self.folder.parent, variables),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except OSError as error:
                raise CheckError(f"can't be started: {error}") from error
            in_time = self._wait(process, seconds_max, until, output)
        if not in_time:
            raise CheckError(f"didn't end within {seconds_max:.0f} s")
        return Ended(process.returncode, output.read_text(errors="replace"), errors.read_text(errors="replace"))

    def files(self, name: str) -> tuple[Path, Path]:
        """Where a command's output and errors go."""
        stem = "".join(letter if letter.isalnum() else "-" for letter in name)
        return self.folder / f"{stem}.out", self.folder / f"{stem}.err"

    def left_running(self) -> list[psutil.Process]:
        """What the last command has left behind and should not have; it gets a moment to end."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while left := [process for process in self._alive() if not self._belongs_to_kept(process)]:
            if time.monotonic() >= deadline:
                return left
            time.sleep(POLL_SECONDS)
        return []

    def keep(self) -> None:
        """What runs now may go on running."""
        self.kept = {process.pid for process in self._alive()}

    def end(self, processes: Iterable[psutil.Process]) -> None:
        """Kills them."""
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._reap()

    def end_all(self) -> None:
        """Kills whatever still descends from us."""
        self.end(self._alive())

    def _wait(self, process: "subprocess.Popen[bytes]", seconds_max: float, until: str, output: Path) -> bool:
        """Whether it ended in time by itself, or after the text came and it was stopping to."""
        deadline, stopping = time.monotonic() + seconds_max, False
        try:
            while process.poll() is None:
                if until and not stopping and until in output.read_text(errors="replace"):
                    stopping = True
                    process.send_signal(signal.SIGTERM)
                if time.monotonic() > deadline:
                    return False
                self._reap(besides=process.pid)
                time.sleep(POLL_SECONDS)
            return True
        finally:
            self._stop(process)

    def _stop(self, process: "subprocess.Popen[bytes]") -> None:
        """Ends it as Ctrl-C would, so that it takes down what it started; kills it after that."""
        for number, seconds in ((signal.SIGINT, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
            if process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)

    def _alive(self) -> list[psutil.Process]:
        self._reap()
        alive = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.pid not in self._others and process.status() != psutil.STATUS_ZOMBIE:
                    alive.append(process)
        return alive

    def _belongs_to_kept(self, process: psutil.Process) -> bool:
        """Whether it is one of the kept processes, or one of them has started it since (a server's
        session, a supervisor's service).
        """
        with contextlib.suppress(psutil.NoSuchProcess):
            return not self.kept.isdisjoint({process.pid, *(parent.pid for parent in process.parents())})
        return True  # it has ended

    def _reap(self, besides: int = 0) -> None:
        """Takes adopted processes that have ended off the table."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                if child.pid not in {besides, *self._others} and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)
