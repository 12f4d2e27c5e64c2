"""Lanes: what goes into which, and that none is left when the run ends or a lane dies."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.smoke.lanes import Lane, partition, running
from tests.smoke.table import Check, checks
from tests.support.waiting import wait_until

HELP = next(check for check in checks() if check.name == "stack.supervisor --help")


def check(name: str, seconds: float, *, on_service: bool = False) -> Check:
    return Check(name, (), (sys.executable, "-c", ""), seconds, on_service=on_service)


def lane(folder: Path, *wanted: Check, lines: list[str] | None = None) -> Lane:
    said: list[str] = [] if lines is None else lines
    return Lane(folder, wanted, said.append)


def test_the_service_stays_in_one_lane_and_the_longest_are_spread() -> None:
    wanted = [check("up", 5, on_service=True), check("a", 30), check("audit", 5, on_service=True), check("b", 25), check("c", 9)]

    assert [[each.name for each in part] for part in partition(wanted, 2)] == [["a", "c"], ["up", "audit", "b"]]
    assert [[each.name for each in part] for part in partition(wanted[1:2], 2)] == [["a"]]


def test_every_check_is_in_exactly_one_lane() -> None:
    wanted = checks()

    assert sorted(each.name for part in partition(wanted, 2) for each in part) == sorted(each.name for each in wanted)


def test_a_lane_runs_its_checks_and_says_so(tmp_path: Path) -> None:
    lines: list[str] = []
    one = lane(tmp_path, HELP, lines=lines)

    with running([one], 1.0):
        one.wait()

    assert [(result.name, result.result) for result in one.results] == [(HELP.name, "passed")]
    assert any(line.startswith("ok ") and HELP.name in line for line in lines)


def test_checks_of_a_lane_that_died_have_failed(tmp_path: Path) -> None:
    one = lane(tmp_path, HELP)

    with running([one], 1.0):
        os.kill(_pid(one), signal.SIGKILL)
        one.wait()

    assert [(result.result, result.why) for result in one.results] == [("failed", "its lane ended with -9 before it")]


def test_an_interrupted_run_leaves_no_lane(tmp_path: Path) -> None:
    one = lane(tmp_path, *[each for each in checks() if each.name.endswith("--help")])

    with pytest.raises(KeyboardInterrupt):
        _run_and_interrupt(one)

    assert one._process is not None
    assert one._process.returncode == 130
    assert [result.result for result in one.results if result.why.startswith("its lane ended")]


def _run_and_interrupt(one: Lane) -> None:
    with running([one], 1.0):
        wait_until(lambda: _children(_pid(one)))
        raise KeyboardInterrupt


def _pid(one: Lane) -> int:
    assert one._process is not None
    return one._process.pid


def _children(pid: int) -> list[str]:
    return subprocess.run(["ps", "--no-headers", "-o", "pid", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout.split()
