import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stack.processes import wait_until
from stack.rundir import CHECKOUT
from tests.stack.conftest import NAMED, processes_of

SECONDS_MAX = 120  # a disk that others keep busy makes servers slow to stop

TEST = """
import os, pathlib, time

def test_waits():
    pathlib.Path({started!r}).write_text(os.environ["RUN_DIR"] + " " + os.environ["BROKER_URL"])
    time.sleep({seconds})
"""


class Run:
    """A test run of its own, with an embedded broker only, whose one test says that it has started
    and then takes a while.
    """

    def __init__(self, folder: Path, place: Path, seconds: int) -> None:
        self.started = place / "started"
        place.mkdir()
        test = place / "test_waits.py"
        test.write_text(TEST.format(started=str(self.started), seconds=seconds))
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "BROKER_", "COUNTER_", "FUND_", "TRADING_"))}
        environ |= {name: value for name, value in NAMED.items() if name != "BROKER_URL"} | {"RUN_DIR": str(folder)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(CHECKOUT / "pyproject.toml"), str(test)]
        self.process = subprocess.Popen(command, cwd=CHECKOUT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def environment(self) -> list[str]:
        assert wait_until(lambda: self.started.exists() and bool(self.started.read_text()), seconds=60)
        return self.started.read_text().split()


class TestServersOfATestRun:
    def test_are_their_own_and_are_gone_after_an_interrupted_run(self, folder: Path, tmp_path: Path) -> None:
        """Two runs at the same time, which end by the two signals that people and CI send."""
        first, second = Run(folder, tmp_path / "first", seconds=60), Run(folder, tmp_path / "second", seconds=60)

        folders, brokers = zip(first.environment(), second.environment(), strict=True)

        assert {*folders} == {str(folder / "test"), str(folder / "test-2")}
        assert len({*brokers}) == 2
        first.process.send_signal(signal.SIGINT)
        second.process.send_signal(signal.SIGTERM)
        assert [run.process.wait(SECONDS_MAX) for run in (first, second)] == [pytest.ExitCode.INTERRUPTED] * 2
        assert processes_of(folder) == []
