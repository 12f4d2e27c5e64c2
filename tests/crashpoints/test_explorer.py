"""The explorer itself: it finds what is broken on purpose, and it says so when a boundary wasn't
there.
"""

import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from base.models import Incarnation
from ops.liveness.heartbeats import HeartbeatMonitor, living
from stack.rundir import CHECKOUT
from tests.crashpoints import checks, report, service
from tests.crashpoints import clock as crash_clock
from tests.crashpoints.doors import commands_of, label_of
from tests.crashpoints.exploration import Exploration
from tests.crashpoints.explorer import Case, Explorer, Result, _lived
from tests.crashpoints.mutations import MUTATIONS
from tests.crashpoints.points import Ending, Event, Phase, Point, apart, points_of
from tests.crashpoints.scenario import Life
from tests.crashpoints.scenarios import GROUPS

SECONDS_MAX = 170


def explore(*arguments: str) -> tuple[int, str]:
    """(exit code, last line) of a run on the tests' own servers."""
    command = [sys.executable, "-m", "tests.crashpoints", "--jobs", "1", *arguments]
    ended = subprocess.run(command, cwd=CHECKOUT, env=os.environ, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert ended.stdout, ended.stderr
    return ended.returncode, ended.stdout.splitlines()[-1]


class TestItSees:
    """Single boundaries; `make smoke` explores a whole scenario, and `make crashpoints MUTATIONS=1`
    breaks every guard in its own.
    """

    SENT = ("--scenario", "steps/close/done@1", "--point", "7")  # the call has been answered, and nobody has recorded it

    def test_that_all_is_well(self) -> None:
        code, last_line = explore(*self.SENT)

        assert (code, last_line) == (0, "crash points: 1/1 covered, 0 violations")

    def test_a_guard_that_is_broken_fails_a_run(self) -> None:
        code, last_line = explore(*self.SENT, "--mutate", "never_asks")

        assert code == 1
        assert last_line.startswith("crash points: 1/1 covered, ")
        assert not last_line.endswith(" 0 violations")

    def test_a_death_in_the_recovery_too(self) -> None:
        code, last_line = explore("--scenario", "sweep/expired_claim/done@1", "--point", "2,3")

        assert (code, last_line) == (0, "crash points: 2/2 covered, 0 violations")


def point(label: str, nth: int = 1, phase: Phase = Phase.BEFORE) -> Point:
    return Point(label, nth, phase)


class _Slots:
    """Cases come to their ends in another order than they were begun in, as they do where slots
    work side by side.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self.taken: list[str] = []

    def run(self, cases: Sequence[Case]) -> Iterator[Result]:
        self.taken += [f"{case.group} {', '.join(map(str, case.points))}" for case in cases]
        for case in self._random.sample(cases, len(cases)):
            yield Result(case, next_points=[] if len(case.points) > 1 else [point(f"db {case.group}", nth) for nth in range(1, 9)])


class TestTheSameSeed:
    def explored(self, seed: int, order_of_ends: int) -> tuple[list[str], str]:
        slots: Any = _Slots(order_of_ends)
        options = Namespace(seed=seed, sample=40, mutate=None, point=None, list=False, json=True)
        exploration = Exploration(options, slots, report.Report("repeat", quiet=True))

        exploration.run([f"group {number}" for number in range(10)])

        return slots.taken, exploration.digest

    def test_takes_the_same_boundaries_whichever_comes_to_its_end_first(self) -> None:
        first, again = self.explored(7, order_of_ends=1), self.explored(7, order_of_ends=2)

        assert first == again
        assert len(first[0]) == 10 + 40

    def test_another_one_takes_others(self) -> None:
        assert self.explored(7, order_of_ends=1)[1] != self.explored(8, order_of_ends=1)[1]


class TestMutations:
    def test_each_is_to_be_found_in_a_scenario_that_exists(self) -> None:
        assert {mutation.scenario for mutation in MUTATIONS.values()} <= {group.name for group in GROUPS}


class TestSettingUp:
    def test_a_worker_is_found_dead_in_as_many_passes_on_a_slow_machine(self, db: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between two passes the machine's clock runs on by ten seconds."""
        Incarnation.objects.create(name="worker", role="worker", host="h", pid=1, version="1")
        machine = iter(range(0, 10_000, 10))
        monkeypatch.setattr(crash_clock, "time", SimpleNamespace(monotonic=lambda: float(next(machine))))
        clock, monitor, dead = crash_clock.VirtualClock(), HeartbeatMonitor(unseen_seconds=60), []
        monkeypatch.setattr(service, "clock", clock)
        monkeypatch.setattr(service, "sweep", lambda _: dead.extend(monitor.dead(living(), clock.monotonic())))
        process: Any = SimpleNamespace(doors=SimpleNamespace(paused=nullcontext), advance=partial(advance, clock))

        service.watch_die(process)

        assert set(dead) == {"worker"}

    def test_that_fails_is_told_as_such(self, monkeypatch: pytest.MonkeyPatch) -> None:
        host: Any = SimpleNamespace(run=lambda *_: Ending(error="there was no message to run"))
        explorer = Explorer.__new__(Explorer)
        explorer._groups = {GROUPS[0].name: GROUPS[0]}
        monkeypatch.setattr(explorer, "_begin", lambda *_: _lived(host, Life(service.work_one)))
        monkeypatch.setattr(checks, "account", list)

        result = explorer.run(Case(GROUPS[0].name, (point("db a"),)))

        assert (result.covered, result.set_up) == (False, False)
        assert result.violations == ["its set-up failed: there was no message to run"]


def advance(clock: "crash_clock.VirtualClock", seconds: float) -> None:
    clock.ahead_seconds += seconds


class TestReport:
    def test_a_boundary_that_was_not_there_is_not_covered(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = report.Report("repeat")

        found.add(Result(Case("steps", (point("db a"),))))
        found.add(Result(Case("steps", (point("db b"),)), covered=False, violations=["it never came to it"]))

        assert (found.passed, found.last_line) == (False, "crash points: 1/2 covered, 0 violations")

    @pytest.mark.parametrize("points", [(), (point("db a"),)], ids=["the first run", "a boundary"])
    def test_a_set_up_that_failed_is_no_violation_and_no_pass(self, capsys: pytest.CaptureFixture[str], points: tuple[Point, ...]) -> None:
        found = report.Report("repeat")
        found.add(Result(Case("steps", (point("db b"),))))

        found.add(Result(Case("steps", points), covered=False, set_up=False, violations=["its set-up failed: there was no message to run"]))

        assert not found.passed
        assert found.last_line == f"crash points: 1/{1 + len(points)} covered, 0 violations, 1 set-ups failed"
        assert "its set-up failed" in capsys.readouterr().out

    def test_a_violation_fails_and_tells_how_to_repeat_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = report.Report("python -m tests.crashpoints")
        case = found.following(Result(Case("steps"), next_points=[point("db a"), point("db b")]))[1]

        found.add(Result(case, violations=["step 1 took effect 2 times"]))

        assert (found.passed, found.last_line) == (False, "crash points: 1/1 covered, 1 violations")
        assert "repeat: python -m tests.crashpoints --scenario steps --point 2" in capsys.readouterr().out

    def test_each_violation_is_told_however_many_there_are(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = report.Report("repeat")
        cases = found.following(Result(Case("steps"), next_points=[point("db a", nth) for nth in range(report.SHOWN_MAX + 5)]))

        for case in cases:
            found.add(Result(case, violations=["step 1 took effect 2 times"], account=["its history"]))

        told = capsys.readouterr().out
        assert [told.count(f"--point {number}\n") for number in range(1, len(cases) + 1)] == [1] * len(cases)
        assert told.count("its history") == report.SHOWN_MAX

    def test_nothing_at_all_is_not_a_pass(self) -> None:
        assert not report.Report("repeat").passed

    def test_a_sample_has_every_kind_of_boundary(self) -> None:
        rare = Case("steps", (point("log commit"),))
        cases = [*(Case("steps", (point("db a", nth),)) for nth in range(500)), rare]

        chosen = [report.sample(cases, 10, Random(seed)) for seed in range(20)]

        assert all(len(found) == 10 and rare in found for found in chosen)
        assert len({tuple(found) for found in chosen}) == 20


class TestBoundaries:
    def test_a_call_has_three_and_what_wrote_nothing_none(self) -> None:
        trace = [Event("call fund", 1), Event("db read", 1, wrote=False), Event("db claim", 1)]

        assert [found.phase for found in points_of(trace)] == ["before", "on its way", "after", "before", "after"]

    def test_dying_before_an_effect_leaves_what_dying_after_the_one_before_it_left(self) -> None:
        found = points_of([Event("db claim", 1), Event("db finish", 1)])

        assert apart(found) == [found[0], found[1], found[3]]

    def test_names_of_statements(self) -> None:
        assert label_of("SELECT * FROM clearing_claim(%s, %s)") == "clearing_claim"
        assert label_of("INSERT INTO orders_watermark AS w (shard) VALUES (%s)") == "insert orders_watermark"
        assert label_of('UPDATE "clearing_clearing" SET x = 1') == "update clearing_clearing"
        assert label_of("SELECT 1") == "read"

    def test_commands_of_a_packed_pipeline(self) -> None:
        packed = [b"*3\r\n$5\r\nLPUSH\r\n$1\r\nq\r\n$4\r\na\r\nb\r\n", b"*1\r\n$4\r\nPING\r\n"]

        assert commands_of(packed) == [[b"LPUSH", b"q"], [b"PING"]]

    def test_groups_have_names_of_their_own(self) -> None:
        assert len({group.name for group in GROUPS}) == len(GROUPS)
