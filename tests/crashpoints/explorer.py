"""One case: a scenario, run to where the process dies, brought to rest by others, and looked at.
Runs in a slot: a process with a database and a broker of its own.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import redis
from django.conf import settings

from tests.crashpoints import checks, service
from tests.crashpoints.books import TABLES
from tests.crashpoints.clock import clock
from tests.crashpoints.mutations import MUTATIONS
from tests.crashpoints.outcomes import BY_NAME
from tests.crashpoints.points import Ending, Plan, Point, apart, points_of
from tests.crashpoints.process import Host
from tests.crashpoints.scenario import Group, Life
from tests.crashpoints.scenarios import GROUPS
from tests.crashpoints.stage import Stage

BEFORE_MS: Final = 60_000  # the orders were made so long ago


@dataclass(frozen=True, slots=True)
class Case:
    """Where the act dies, and where the recovery after it dies; without points everybody lives."""

    group: str
    points: tuple[Point, ...] = ()
    dies_apart: bool = True  # no other boundary leaves the same behind
    mutation: str = ""  # the guard that is broken on purpose


@dataclass(slots=True)
class Result:
    """What became of a case. `next_points`: the boundaries that can follow its own."""

    case: Case
    covered: bool = True
    set_up: bool = True  # False: a process before the act failed, so that the case says nothing of the service
    violations: list[str] = field(default_factory=list)
    account: list[str] = field(default_factory=list)
    next_points: list[Point] = field(default_factory=list)
    seconds: float = 0.0


class Explorer:
    """Runs cases, one after another."""

    def __init__(self) -> None:
        self._groups = {group.name: group for group in GROUPS}
        self._broker = redis.Redis.from_url(settings.BROKER_URL)
        self._stage = Stage(self._broker)
        self._begun: _Begun | None = None

    def run(self, case: Case) -> Result:
        """Runs a case to its checks."""
        started = time.monotonic()
        result = Result(case)
        try:
            self._run(self._begin(self._groups[case.group], case.mutation), result)
        except _NotSetUp as error:
            result.covered = result.set_up = False
            result.violations.append(f"its set-up failed: {error}")
        except _Unexpected as error:
            result.violations.append(str(error))
        if result.violations:
            result.account = list(checks.account())
        result.seconds = time.monotonic() - started
        return result

    def _begin(self, group: Group, mutation: str) -> "_Begun":
        """Where the group's cases begin; the processes before the act run once."""
        if self._begun is None or self._begun.group is not group or self._begun.mutation != mutation:
            self._begun = None
            self._stage.empty()
            host = self._host(group)
            host.plant = MUTATIONS[mutation].plant if mutation else host.plant
            snapshots = [kept for life in group.scenario.lives if (kept := _lived(host, life))]
            self._stage.keep()
            self._begun = _Begun(group, mutation, host, snapshots)
        else:
            self._stage.bring_back()
        return _Begun(group, mutation, self._begun.host.copy(), list(self._begun.snapshots))

    @staticmethod
    def _run(begun: "_Begun", result: Result) -> None:
        group, host, snapshots = begun.group, begun.host, begun.snapshots
        case, scenario, points = result.case, group.scenario, result.case.points
        host.books.scripts += group.behaviour.at(group.step)
        acted = host.run(scenario.act, Plan(points[0] if points else None, records=not points))
        _note(result, acted, dies=bool(points))
        snapshots.append(checks.snapshot())
        records = scenario.double and len(points) == 1 and case.dies_apart
        for dies_at in (*points[1:2], None):
            plan = Plan(dies_at, records) if dies_at or records else None
            recovered = host.run(partial(service.recover, again=scenario.again), plan)
            _note(result, recovered, dies=dies_at is not None)
            snapshots.append(checks.snapshot())
        host.books.arrive_all()
        result.next_points = points_of(acted.trace) if not points else apart(points_of(recovered.trace)) if records else []
        if not points and not result.next_points:
            result.violations.append("nothing happened in which it could have died")
        result.violations += checks.violations(group, host.books, snapshots)

    def _host(self, group: Group) -> Host:
        scenario, host = group.scenario, Host(self._broker)
        start_ms = clock.now_ms() - BEFORE_MS
        host.books.tables = {
            table: [order.interface_row(start_ms) for order in scenario.orders if table == "orders" or order.order_id not in scenario.unsynced]
            for table in TABLES
        }
        if not scenario.by_interface:
            host.log.messages = scenario.messages(scenario.orders, start_ms)
        host.settings = {**scenario.settings, **group.behaviour.settings}
        for name, step in scenario.before:
            host.books.scripts += BY_NAME[name].at(step)
        return host


@dataclass(frozen=True, slots=True)
class _Begun:
    """A group at the moment before its act."""

    group: Group
    mutation: str
    host: Host
    snapshots: list[checks.Snapshot]


class _Unexpected(Exception):  # noqa: N818 - named by what it tells
    """A process ended as it shouldn't have."""


class _NotSetUp(Exception):  # noqa: N818 - named by what it tells
    """A process before the act ended as it shouldn't have."""


def _lived(host: Host, life: Life) -> checks.Snapshot | None:
    """Runs a process of before. What it left, if it died."""
    ending = host.run(life.body, Plan(life.dies_at))
    if ending.error or ending.died != (life.dies_at is not None):
        raise _NotSetUp(ending.error or f"it lived on past {life.dies_at}")
    return checks.snapshot() if ending.died else None


def _note(result: Result, ending: Ending, *, dies: bool) -> None:
    result.violations += ending.broken
    if ending.error:
        raise _Unexpected(ending.error)
    if ending.died != dies:
        result.covered = False
        raise _Unexpected(f"it never came to {result.case.points[-1]}")


def named(cases: Sequence[str]) -> list[Group]:
    """The groups whose names begin so; all where nothing is named."""
    return [group for group in GROUPS if not cases or any(group.name.startswith(name) for name in cases)]
