"""Children of our own are taken off the process table, at whatever moment they end: Python warns of
one that it still believes to run.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from stack.processes import Identity, gone, start_detached, stop, wait_until
from stack.rundir import CHECKOUT


def start(folder: Path) -> tuple["subprocess.Popen[bytes]", psutil.Process]:
    child = start_detached(["sleep", "120"], log=folder / "log", cwd=folder)
    return child, psutil.Process(child.pid)


def end_unseen(child: "subprocess.Popen[bytes]", process: psutil.Process) -> None:
    """It ends, and nobody has looked since."""
    process.kill()
    assert wait_until(lambda: process.status() == psutil.STATUS_ZOMBIE, 20)
    assert child.returncode is None


class TestReaped:
    def test_is_one_that_ended_before_it_was_stopped(self, tmp_path: Path) -> None:
        child, process = start(tmp_path)
        identity = Identity.of(child.pid)
        end_unseen(child, process)

        stop(identity)

        assert child.returncode is not None

    def test_is_one_that_ends_while_it_is_looked_at(self, tmp_path: Path) -> None:
        child, process = start(tmp_path)

        class EndsNow:
            """The last moment before the look at its state."""

            def is_running(self) -> bool:
                end_unseen(child, process)
                return True

            def status(self) -> str:
                return str(process.status())

        ends_now: Any = EndsNow()
        assert gone(ends_now, 0)

        assert child.returncode is not None

    def test_no_warning_of_a_child_that_outlives_us(self, tmp_path: Path) -> None:
        code = f"""
from pathlib import Path
from stack.processes import start_detached
folder = Path({str(tmp_path)!r})
print(start_detached(["sleep", "120"], log=folder / "log", cwd=folder).pid)
"""
        ended = subprocess.run([sys.executable, "-W", "always", "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
        psutil.Process(int(ended.stdout)).kill()

        assert ended.stderr == ""
