"""Runs the checks in lanes beside each other: most of them wait for something (a restart, a term, a
deadline) more than they compute.

Each lane is a process of its own, so that what a check leaves running is known to be its own, and
works in a folder of its own, `.run/smoke-1`, `.run/smoke-2` (`make down` finds them there).
"""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from stack.rundir import CHECKOUT
from tests.smoke.results import Result
from tests.smoke.table import Check

LANES: Final = 2


def partition(wanted: Sequence[Check], lanes: int) -> list[list[Check]]:
    """The checks of each lane, in the table's order; those on the service stay together. The
    longest are given out first, each to the lane with the least to do; no lane is empty.
    """
    groups = [[check for check in wanted if check.on_service], *([check] for check in wanted if not check.on_service)]
    given: list[list[Check]] = [[] for _ in range(lanes)]
    for group in sorted((group for group in groups if group), key=_seconds, reverse=True):
        min(given, key=_seconds).extend(group)
    order = {check.name: number for number, check in enumerate(wanted)}
    return [sorted(lane, key=lambda check: order[check.name]) for lane in given if lane]


def _seconds(checks: Sequence[Check]) -> float:
    return sum(check.seconds for check in checks)


@dataclass
class Lane:
    """One lane's process. `say` is called with each line that it writes about its checks."""

    folder: Path
    checks: Sequence[Check]
    say: Callable[[str], None]
    results: list[Result] = field(default_factory=list)
    _process: "subprocess.Popen[str] | None" = None
    _readers: list[threading.Thread] = field(default_factory=list)
    _output: str = ""

    def start(self, slowness: float) -> None:
        """Starts it, in a session of its own: Ctrl-C reaches it through `stop`, once."""
        only = [word for check in self.checks for word in ("--only", check.name)]
        command = [sys.executable, "-m", "tests.smoke", "--lane", str(self.folder), "--slowness", str(slowness), "--json", *only]
        self._process = subprocess.Popen(
            command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True
        )
        self._readers = [threading.Thread(target=self._read_lines), threading.Thread(target=self._read_output)]
        for reader in self._readers:
            reader.start()

    def stop(self) -> None:
        """Tells it to end; it takes down what it started."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Until it ends."""
        if self._process is not None:
            self._process.wait()

    def finish(self) -> None:
        """Waits for its end, and reads its results. A check without one has failed."""
        if self._process is None:
            return
        exit_code = self._process.wait()
        for reader in self._readers:
            reader.join()
        try:
            self.results = [Result(**result) for result in json.loads(self._output)["checks"]]
        except ValueError:
            self.results = []
        known = {result.name for result in self.results}
        why = f"its lane ended with {exit_code} before it"
        self.results += [Result(check.name, "failed", 0.0, why) for check in self.checks if check.name not in known]

    def _read_lines(self) -> None:
        with self._stream("stderr") as lines:
            for line in lines:
                self.say(line.rstrip("\n"))

    def _read_output(self) -> None:
        with self._stream("stdout") as output:
            self._output = output.read()

    def _stream(self, name: str) -> IO[str]:
        stream: IO[str] = getattr(self._process, name)
        return stream


@contextlib.contextmanager
def running(lanes: Sequence[Lane], slowness: float) -> Iterator[None]:
    """Starts them; at the end of the block they have ended, also when it is interrupted."""
    try:
        for lane in lanes:
            lane.start(slowness)
        yield
    except BaseException:
        for lane in lanes:
            lane.stop()
        raise
    finally:
        for lane in lanes:
            lane.finish()
