"""The state of each counterparty, shared by all processes through PostgreSQL: breaker, pauses,
Retry-After (docs/decisions/0011-breaker.md).

Every process reads it at most once in READ_SECONDS (`clearing/gateways/circuit_breaker.py`), and
writes only when something changes. Times are the database's; what is read comes as milliseconds
that are left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog
from django.conf import settings

from base.alarms import alarm
from base.db import call
from clearing.gateways import Counterparty
from clearing.status import Breaker

log = structlog.get_logger(__name__)
PROBE_SECONDS: Final = 1.0  # so soon after its return a counterparty is found
REFUSED_PROBE_SECONDS: Final = 10.0  # only operators can mend that
BUSY_SECONDS: Final = 3.0  # how long one worker's finding no slot holds for the sweep
_READ: Final = """
    SELECT s.name, s.breaker, s.refuses, clearing_if_near(s.quiet_until, service_now()) > service_now(),
           extract(epoch FROM s.quiet_until - service_now()) * 1000,
           clearing_if_near(s.busy_until, service_now()) > service_now(), s.changed_at, NULL::int, ''
    FROM clearing_standing s
    UNION ALL SELECT p.counterparty, '', false, false, 0, false, NULL, p.step, p.code FROM clearing_pause p
"""
# Further off than a probe ever is put: the clock was ahead when that was written.
_TAKE_PROBES: Final = """
    UPDATE clearing_standing SET probe_at = service_now() + (%s * interval '1 second')
    WHERE breaker IN ('open', 'closed') AND (probe_at <= service_now() OR probe_at > service_now() + interval '1 minute')
    RETURNING name, cause, refuses, breaker = 'closed'
"""
# A closed breaker has a probe's time only while it is in doubt.
_ASK_FOR_PROBE: Final = """
    INSERT INTO clearing_standing AS s (name, probe_at) VALUES (%s, service_now())
    ON CONFLICT (name) DO UPDATE SET probe_at = EXCLUDED.probe_at WHERE s.breaker = 'closed' AND s.probe_at IS NULL RETURNING s.name
"""
_END_DOUBT: Final = "UPDATE clearing_standing SET probe_at = NULL WHERE name = %s AND breaker = 'closed' RETURNING name"
_PUT_OFF: Final = """
    UPDATE clearing_standing SET probe_at = service_now() + (%s * interval '1 second'), cause = %s, refuses = %s
    WHERE name = %s AND breaker = 'open' RETURNING name
"""


@dataclass(frozen=True, slots=True)
class StateSnapshot:
    """The state of all counterparties at one moment. One that isn't named is healthy."""

    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    refusing: frozenset[str] = frozenset()
    quiet_ms: Mapping[str, float] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    paused: frozenset[tuple[str, int]] = frozenset()  # (counterparty, step); step 0: all of them
    bounded: frozenset[tuple[str, int]] = frozenset()  # those of the paused that a bound has paused, and no operator
    changed_at: Mapping[str, datetime] = field(default_factory=dict)  # of the breakers, so that a change and back isn't missed

    def breaker(self, counterparty: str) -> Breaker:
        """Its breaker."""
        return self.breakers.get(counterparty, Breaker.CLOSED)

    def is_paused(self, counterparty: str, step: int) -> bool:
        """Whether operators have paused it, or this step of it."""
        return (counterparty, 0) in self.paused or (counterparty, step) in self.paused

    def is_bounded(self, counterparty: str, step: int) -> bool:
        """Whether the bound of a minute has paused the step, and no operator has."""
        return (counterparty, step) in self.bounded and (counterparty, 0) not in self.paused


def read() -> StateSnapshot:
    """The state now. Raises OperationalError while PostgreSQL is unavailable."""
    rows = call(_READ, [])
    states = [row for row in rows if row[7] is None]
    return StateSnapshot(
        breakers={name: Breaker(breaker) for name, breaker, *_ in states if breaker != Breaker.CLOSED},
        refusing=frozenset(row[0] for row in states if row[2]),
        quiet_ms={row[0]: float(row[4]) for row in states if row[3]},
        busy=frozenset(row[0] for row in states if row[5]),
        paused=frozenset((row[0], row[7]) for row in rows if row[7] is not None),
        bounded=frozenset((row[0], row[7]) for row in rows if row[8]),
        changed_at={row[0]: row[6] for row in states},
    )


def _move(counterparty: str, from_: list[Breaker], to: Breaker, cause: str, *, refuses: bool = False, actor: str) -> tuple[Breaker, bool] | None:
    """Moves the breaker; returns what it was and whether it refused us then, None where it was
    elsewhere by then.
    """
    seconds = REFUSED_PROBE_SECONDS if refuses else PROBE_SECONDS
    sql = "SELECT was, refused FROM clearing_move_breaker(%s, %s, %s, %s, %s, %s, %s)"
    for was, refused in call(sql, [counterparty, list(from_), to, cause, refuses, seconds, actor]):
        log.info("breaker", counterparty=counterparty, was=was, now=to, cause=cause)
        return Breaker(was), refused
    return None


def open_breaker(counterparty: str, cause: str, *, refuses: bool, actor: str) -> None:
    """No process calls it any more until a probe is answered. The first process that finds it down
    raises the alarm, and so does the first that is refused.
    """
    moved = _move(counterparty, [Breaker.CLOSED, Breaker.HALF_OPEN], Breaker.OPEN, cause, refuses=refuses, actor=actor)
    if moved is None:
        return
    was, refused = moved
    if was == Breaker.CLOSED or (refuses and not refused):
        raise_alarm(counterparty, cause, refuses=refuses)


def raise_alarm(counterparty: str, cause: str, *, refuses: bool) -> None:
    """Says that a counterparty isn't called any more, and why."""
    if refuses:
        alarm("counterparty_refuses", "a counterparty refuses our signature or our rights: it is paused", counterparty=counterparty, error_code=cause)
    else:
        alarm("counterparty_down", "a counterparty isn't called while it fails", counterparty=counterparty, error_code=cause)


def half_open(counterparty: str, *, actor: str) -> bool:
    """A probe was answered: single calls try. False: it isn't open any more."""
    return _move(counterparty, [Breaker.OPEN], Breaker.HALF_OPEN, "a probe was answered", actor=actor) is not None


def close(counterparty: str, *, actor: str) -> None:
    """A trial went well: all processes call it again."""
    _move(counterparty, [Breaker.HALF_OPEN], Breaker.CLOSED, "", actor=actor)


def note_busy(counterparty: str) -> None:
    """A call found no slot: the sweep dispatches no more than are free, for a moment."""
    call("SELECT clearing_standing_note(%s, %s, NULL)", [counterparty, BUSY_SECONDS])


def note_quiet(counterparty: str, quiet_ms: int) -> None:
    """It asked for no calls for so long (Retry-After)."""
    call("SELECT clearing_standing_note(%s, NULL, %s)", [counterparty, quiet_ms])


def ask_for_probe(counterparty: str) -> None:
    """It refused an order's call: is that order meant, or all of us? A probe finds out."""
    call(_ASK_FOR_PROBE, [counterparty])


def lease_calls(counterparty: str, rate: float, wanted: int) -> tuple[int, float]:
    """(calls allowed now, ms until the next one if there is none)."""
    granted, wait_ms = call("SELECT granted, wait_ms FROM clearing_lease_calls(%s, %s, %s)", [counterparty, rate, wanted])[0]
    return granted, wait_ms


@dataclass(frozen=True, slots=True)
class DueProbe:
    """The right to probe a counterparty, and why its breaker is open. `in_doubt`: it is closed, and
    one order's call was refused.
    """

    counterparty: Counterparty
    cause: str
    refuses: bool
    in_doubt: bool = False


def take_probes(seconds_max: float) -> list[DueProbe]:
    """The counterparties to probe now. No other process is given them until `seconds_max` have
    passed, or until the time that `failed` sets.
    """
    return [DueProbe(Counterparty(name), *found) for name, *found in call(_TAKE_PROBES, [seconds_max])]


def passed(probe: DueProbe, *, actor: str) -> bool:
    """The probe was answered: single calls try, where the breaker was open. Returns whether it
    was.
    """
    if probe.in_doubt:
        return bool(call(_END_DOUBT, [probe.counterparty]))
    return half_open(probe.counterparty, actor=actor)


def failed(probe: DueProbe, cause: str, *, refuses: bool, actor: str) -> None:
    """The probe wasn't answered, or we are refused: once more, later. Where only one order was
    refused before, all of us are now; one that isn't answered says nothing of that, and the orders'
    own calls will tell.
    """
    if probe.in_doubt:
        if refuses:
            open_breaker(probe.counterparty, cause, refuses=True, actor=actor)
        else:
            call(_END_DOUBT, [probe.counterparty])
        return
    seconds = REFUSED_PROBE_SECONDS if refuses else PROBE_SECONDS
    if call(_PUT_OFF, [seconds, cause, refuses, probe.counterparty]) and refuses and not probe.refuses:
        raise_alarm(probe.counterparty, cause, refuses=True)


def set_pause(counterparty: str, step: int, *, paused: bool, reason: str, actor: str) -> bool:
    """An operator pauses a counterparty (step 0) or one of its steps, or ends the pause. Returns
    whether that changed anything.
    """
    changed: bool = call("SELECT clearing_pause_set(%s, %s, %s, %s, %s)", [counterparty, step, paused, reason, actor])[0][0]
    if changed:
        log.warning("paused" if paused else "resumed", counterparty=counterparty, step=step or "all", reason=reason, actor=actor)
    return changed


# In flight: claimed by a worker, or sent to one a moment ago. Few rows each, by partial indexes.
_TAKEN: Final = """
    SELECT o.counterparty, count(*) FROM clearing_clearing c JOIN clearing_operation o ON o.clearing_id = c.id AND o.step = c.step
        AND o.state IN ('open', 'pending', 'unknown') WHERE c.state = 'running' GROUP BY 1
    UNION ALL SELECT split_part(waits_for, ':', 1), count(*) FROM clearing_clearing WHERE state = 'queued' AND waits_for <> '' GROUP BY 1
"""
_WORKERS: Final = "SELECT count(*) FROM base_incarnation WHERE ended_at IS NULL AND role = 'worker'"


def in_flight() -> dict[str, int]:
    """Orders in flight at each counterparty: being called, or about to be."""
    taken: dict[str, int] = {}
    for counterparty, count in call(_TAKEN, []):
        taken[counterparty] = taken.get(counterparty, 0) + count
    return taken


def slots() -> int:
    """Calls to one counterparty that all live workers together may have in flight."""
    return int(call(_WORKERS, [])[0][0]) * int(settings.GATEWAY_CALLS_MAX)


def free_slots(now: StateSnapshot, limit: int, seconds: float) -> dict[str, int]:
    """How many due orders a pass of the sweep, made every so many seconds, dispatches to each
    counterparty at most.
    """
    tight = now.busy or any(breaker == Breaker.HALF_OPEN for breaker in now.breakers.values())
    taken, all_slots = (in_flight(), slots()) if tight else ({}, 0)

    def room(counterparty: str) -> int:
        if now.breaker(counterparty) == Breaker.OPEN or counterparty in now.quiet_ms:
            return 0
        found = limit
        if counterparty in now.busy:
            found = min(found, max(all_slots - taken.get(counterparty, 0), 0))
        if now.breaker(counterparty) == Breaker.HALF_OPEN:
            found = min(found, max(TRIALS_MAX - taken.get(counterparty, 0), 0))
        rate = settings.COUNTERPARTY_RATES[counterparty]
        return min(found, max(int(rate * seconds), 1)) if rate else found

    return {counterparty: room(counterparty) for counterparty in Counterparty}


TRIALS_MAX: Final = 2  # orders that a sweep sends to a counterparty whose breaker is half open
