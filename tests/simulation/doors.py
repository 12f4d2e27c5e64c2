"""The doors of the engine, where a process may be interrupted, die, or be told nothing: the store's
calls, the publishes, the clocks.

What runs between two doors is the real code on the real database. The clocks are virtual ones:
`service_now()` is a fixed day plus the session's shift, and what a process measures by itself is
its own clock, which differs from everybody's.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

from django.db import OperationalError, connection

from base import db, incarnation, metrics
from clearing.dispatch import broker, publish
from clearing.gateways import circuit_breaker, counterparty_state, fake, http
from clearing.policy import backoff, error_policies
from clearing.running import calls, runner
from clearing.store import bounds, claim_clock, claims, interventions, recovery
from ops.liveness import heartbeats
from ops.liveness.heartbeats import HeartbeatMonitor
from ops.recovery import probe, sweep
from tests.simulation.attempts import UncountedAttempts
from tests.simulation.broker import MemoryBroker
from tests.simulation.scheduler import Process, Scheduler

DAY: Final = datetime(2026, 1, 1, tzinfo=UTC)
DAY_MS: Final = int(DAY.timestamp() * 1000)
FIXED_CLOCK: Final = """
    CREATE OR REPLACE FUNCTION service_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
        SELECT timestamptz '2026-01-01 00:00:00+00' + coalesce(nullif(current_setting('service.clock_shift', true), '')::interval, interval '0')
    $$
"""
BEFORE_LOST: Final = 0.001  # of the store's calls: the connection breaks before
ANSWER_LOST: Final = 0.002  # after the commit
STALLED: Final = 0.0005  # of pauses: the process stands still for seconds
STALL_SECONDS_MAX: Final = 40.0
CALL_SECONDS: Final = (0.0002, 0.003)


class Doors:
    """Stands in every door."""

    def __init__(self, scheduler: Scheduler, memory: MemoryBroker, random: Random) -> None:
        self.quiet = False
        self.broken = 0
        self.uncounted = UncountedAttempts()
        self._scheduler = scheduler
        self._broker = memory
        self._random = random
        self._watches: dict[Process, HeartbeatMonitor] = {}

    # --- Time -------------------------------------------------------------------------------------
    def now_ms(self) -> int:
        """The database's time."""
        return DAY_MS + int(self._scheduler.now * 1000)

    def own_seconds(self, _clock: object = None) -> float:
        """What the current process measures."""
        actor = self._scheduler.current
        process = actor.process if actor else Process("nobody")
        return self._scheduler.now * (1 + process.drift) + process.boot_seconds

    def set_clock(self) -> None:
        """Moves `service_now()` on: before whatever isn't one of the store's calls."""
        with connection.cursor() as cursor:
            cursor.execute(self._clock_sql())

    def pause(self, what: str, seconds: tuple[float, float] = CALL_SECONDS) -> None:
        """Others may act now, and now and then for long."""
        length = self._random.uniform(*seconds)
        if not self.quiet and self._random.random() < STALLED:
            length += self._random.uniform(0, STALL_SECONDS_MAX)
        self._scheduler.pause(length, what)

    def sleep(self, seconds: float) -> None:
        """As `time.sleep`."""
        self._scheduler.pause(seconds, "sleep")

    def _clock_sql(self) -> str:
        return f"SET service.clock_shift = '{self._scheduler.now:.6f} seconds'"

    # --- The database -----------------------------------------------------------------------------
    def call(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """In the place of `base.db.call`, one commit: before it others may act, and its answer may
        be lost.

        Not after it: whatever comes next has a door of its own, and in between nothing is done that
        anybody could see.
        """
        if connection.in_atomic_block:
            return self.call_at_once(sql, params)
        self.pause("a call")
        if self._breaks(BEFORE_LOST):
            raise OperationalError("the connection broke: so the simulation wants it")
        answer_lost = self._breaks(ANSWER_LOST)
        rows = self.uncounted.follow(self._scheduler.current, sql, params, lambda: self.call_at_once(sql, params), answer_lost=answer_lost)
        if answer_lost:
            raise OperationalError("the connection broke after the commit: so the simulation wants it")
        return rows

    def call_at_once(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """The same where a lock of the process is held: nobody acts in between."""
        return db.call(f"{self._clock_sql()};{sql}", params)

    def _breaks(self, share: float) -> bool:
        breaks = not self.quiet and self._random.random() < share
        self.broken += breaks
        return breaks

    # --- The broker -------------------------------------------------------------------------------
    def publish(self, refs: Sequence[Any], queue: str | None) -> None:
        """In the place of `publish._send`."""
        self.pause("a publish")
        self._broker.send(refs, queue)

    # --- The sweepers -----------------------------------------------------------------------------
    def dead(self, beats: Any, now: float, missing: Collection[str] = ()) -> list[str]:
        """Each sweeping process watches by itself."""
        actor = self._scheduler.current
        assert actor is not None
        return self._watches.setdefault(actor.process, HeartbeatMonitor(12.0)).dead(beats, now, missing)


@contextmanager
def open_doors(doors: Doors, memory: MemoryBroker, random: Random) -> Iterator[None]:
    """The engine's doors lead here."""
    virtual: Callable[[], float] = doors.own_seconds
    places: list[tuple[Any, str, Any]] = [
        *((module, "call", doors.call) for module in (bounds, claims, interventions, recovery)),
        (heartbeats, "call", doors.call),
        (probe, "call", doors.call),
        *(
            (module, "call", doors.call_at_once) for module in (counterparty_state, error_policies)
        ),  # asked on the way to a call, where nobody else waits
        (incarnation, "call", doors.call_at_once),  # a registration's lock is held
        (claims, "sleep", doors.sleep),
        *((module, "clock_gettime", doors.own_seconds) for module in (claim_clock, claims, calls, runner, metrics)),
        *((module, "monotonic", virtual) for module in (broker, circuit_breaker, publish, error_policies, sweep)),
        (fake, "time", SimpleNamespace(sleep=doors.sleep, time_ns=lambda: doors.now_ms() * 1_000_000)),
        (http, "time", SimpleNamespace(monotonic=virtual)),
        (broker, "client", lambda: memory),
        (publish, "_send", doors.publish),
        (backoff, "_random", random),
        (heartbeats, "monitor", SimpleNamespace(dead=doors.dead)),
    ]
    with ExitStack() as stack:
        for module, name, stand_in in places:
            stack.enter_context(patch.object(module, name, stand_in))
        stack.enter_context(patch.dict(backoff.Backoff.delay_ms.__kwdefaults__, random=random))
        yield
