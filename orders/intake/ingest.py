"""The one way in: rows of orders become SyncOrders, with what follows from them in the same
transaction.

Locks are taken in one order (design, rule 6): the fence's, the one of accepting
(orders/intake/order_store.py), the orders' keys (sorted), quarantined messages, the lanes that
`open_clearings` locks, the watermarks (sorted). A hold locks a lane of its own, so each is set in a
transaction of its own, with the quarantined message that it is about. No network call happens in a
transaction here, and `publish` is called after the last commit.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

import structlog
from django.conf import settings
from django.db import DataError, IntegrityError, InterfaceError, InternalError, OperationalError

from base import metrics
from base.alarms import alarm
from base.fence import Fence, fenced, no_fence
from orders.intake.classify import (
    CONTENTS_DIFFER,
    DATABASE_REFUSED,
    INTERNAL_ERROR,
    REFUSED_PREFIX,
    UNREADABLE,
    Arrival,
    Bad,
    Item,
    Place,
    Skipped,
    Suspect,
)
from orders.intake.faults import IntakeFault, never_succeeded
from orders.intake.mapping import NewOrder, canonical_hash
from orders.intake.order_store import Hashed, Inserted, insert, lock_out_inserts, raise_watermarks, stored_hashes, stored_places
from orders.intake.quarantine import already_quarantined, contradicted_orders, quarantine, quarantine_contradiction
from orders.models import Source

log = structlog.get_logger(__name__)
Ref = TypeVar("Ref")

# What PostgreSQL, or its driver before it, refuses of one row: out of range, a violated constraint,
# a NUL, a lone surrogate.
ROW_REFUSALS: Final = (DataError, IntegrityError, ValueError)
DATABASE_AWAY: Final = (OperationalError, InterfaceError, InternalError)  # it doesn't serve us now; nothing is wrong with any row
SESSION_CLASS: Final = "25"  # of InternalErrors: the transaction's state, not what was written
FENCED_ROWS_MAX: Final = 100  # of a transaction under a fence, which has FENCE_MS_MAX


@dataclass(frozen=True, slots=True)
class AcceptedOrder:
    """An order that was just stored."""

    sync_order_id: int
    order: NewOrder


@dataclass(slots=True)
class IngestResult:
    """What became of a batch, in rows. `bad` and `bad_before`: the messages that can't be read or
    aren't valid, new ones and repeated ones.
    """

    accepted: int = 0
    known: int = 0
    filtered: int = 0
    refused: int = 0
    quarantined: int = 0
    unpublished: int = 0  # left to the sweep
    bad: set[Place] = field(default_factory=set)
    bad_before: set[Place] = field(default_factory=set)

    def add(self, other: "IngestResult") -> None:
        for name in ("accepted", "known", "filtered", "refused", "quarantined", "unpublished"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bad |= other.bad
        self.bad_before |= other.bad_before


class Intake(Protocol):
    """Ingests a batch from one source: `ingest` with all its other arguments bound (ops/wiring.py).

    Safe to repeat with the same batch. Raises what `ingest` raises.
    """

    def __call__(self, items: Sequence[Item], /) -> IngestResult: ...


def ingest(
    batch: Sequence[Item],
    *,
    source: Source,
    open_clearings: Callable[[Sequence[AcceptedOrder]], Sequence[Ref]],
    hold: Callable[[str, str], None],
    publish: Callable[[Sequence[Ref]], bool],
    fence: Fence = no_fence,
    others_succeeded: Callable[[], bool] = never_succeeded,
) -> IngestResult:
    """Takes everything in that a batch brings, in transactions of INTAKE_BATCH_ROWS_MAX rows, and
    publishes what they opened.

    `open_clearings` and `hold` (order id, code) run in the open transaction, `fence` at the start
    of each (base/fence.py); `publish` runs after the last commit, once every hold is set, and
    answers False for what it couldn't send: the sweep sends it, as it does where we die or fail
    before. Safe to repeat as a whole. Raises TermOutdated, the database's errors that aren't about
    a row, and IntakeFault where `open_clearings` fails with every new order of the batch, unless
    `others_succeeded` is known: then it isn't the orders' fault. Fails it with some alone, these
    are quarantined with an alarm, and the others go on.
    """
    run = _Ingest(source, open_clearings, hold, fence)
    run.accept_all(run.hashed([item for item in batch if isinstance(item, Arrival)]))
    run.quarantine_changes([item for item in batch if isinstance(item, Suspect)])
    run.result.unpublished += _unpublished(run.refs, publish)
    run.quarantine_all([item for item in batch if isinstance(item, Bad)])
    run.result.filtered += sum(isinstance(item, Skipped) for item in batch)
    run.judge_faults(others_succeeded)
    _count(run.result, source)
    return run.result


def _count(result: IngestResult, source: Source) -> None:
    for label in metrics.IntakeResult:
        rows = getattr(result, label.value)
        if rows:
            metrics.INTAKE_ROWS.labels(source.value, label.value).inc(rows)


def _unpublished(refs: Sequence[Ref], publish: Callable[[Sequence[Ref]], bool]) -> int:
    """Publishes them. Returns how many are left to the sweep."""
    try:
        return 0 if not refs or publish(refs) else len(refs)
    except Exception:
        log.exception("publish failed", clearings=len(refs), fix="nothing: the sweep sends them again")
        return len(refs)


class _Ingest(Generic[Ref]):
    """One call of `ingest`."""

    def __init__(
        self,
        source: Source,
        open_clearings: Callable[[Sequence[AcceptedOrder]], Sequence[Ref]],
        hold: Callable[[str, str], None],
        fence: Fence,
    ) -> None:
        self.result = IngestResult()
        self.refs: list[Ref] = []  # to be published
        self._source = source
        self._open_clearings = open_clearings
        self._hold = hold
        self._fence = fence
        self._rows_max = settings.INTAKE_BATCH_ROWS_MAX if fence is no_fence else min(FENCED_ROWS_MAX, settings.INTAKE_BATCH_ROWS_MAX)
        self._faults: list[tuple[Bad, IntakeFault]] = []

    def hashed(self, arrivals: Sequence[Arrival]) -> list[Hashed]:
        """Each with its canonical hash. What isn't from Kafka is nearly always known: it is
        compared at once, and only the rest is returned.

        No transaction is needed for that: an order's row is never changed.
        """
        found = [Hashed(arrival, canonical_hash(arrival.order)) for arrival in arrivals]
        if self._source is Source.KAFKA:
            return found
        held = stored_hashes({hashed.order_id for hashed in found})
        for repeat in found:
            if repeat.order_id in held:
                self._compare(repeat, held)
        return [hashed for hashed in found if hashed.order_id not in held]

    def accept_all(self, arrivals: Sequence[Hashed]) -> None:
        """Stores the new ones among them, in as many transactions as it takes."""
        taken = 0
        while taken < len(arrivals):
            part = arrivals[taken : taken + self._rows_max]
            self._accept(part)
            taken += len(part)

    def _accept(self, arrivals: Sequence[Hashed]) -> None:
        """A row that the database refuses, or that we fail with, is found by halving, and put away
        alone. So are fewer rows tried where a transaction under a fence didn't have the time for
        all of them.
        """
        began = time.monotonic()
        try:
            stored = self._store(arrivals)
        except (*ROW_REFUSALS, IntakeFault) as error:
            if len(arrivals) == 1:
                self._handle_failed_row(arrivals[0], error)
                return
            self._accept_halves(arrivals)
        except DATABASE_AWAY as error:
            if len(arrivals) == 1 or not self._was_slow(time.monotonic() - began):
                raise
            self._rows_max = len(arrivals) // 2
            log.info("fewer rows in a transaction", rows=self._rows_max, error=str(error).strip())
            self._accept_halves(arrivals)
        else:
            self._after_commit(stored)

    def _was_slow(self, seconds: float) -> bool:
        """Whether a transaction that failed may have met its limits, which end its session without
        a word (base/sql/01_fence.sql).

        If the database was away instead, the next transaction fails at once.
        """
        return self._fence is not no_fence and seconds * 1000 >= settings.FENCE_MS_MAX / 2

    def _accept_halves(self, arrivals: Sequence[Hashed]) -> None:
        middle = len(arrivals) // 2
        self._accept(arrivals[:middle])
        self._accept(arrivals[middle:])

    def _handle_failed_row(self, hashed: Hashed, error: Exception) -> None:
        order_id, origin = hashed.order_id, hashed.arrival.origin
        if isinstance(error, IntakeFault):
            self._faults.append((Bad(INTERNAL_ERROR, str(error), order_id, origin, hashed.order_hash), error))
        else:
            self.quarantine_all([Bad(DATABASE_REFUSED, f"{type(error).__name__}: {error}", order_id, origin, hashed.order_hash)])

    def judge_faults(self, others_succeeded: Callable[[], bool]) -> None:
        """What we fail with, once the rest is in: no order's fault where we fail with all of them,
        as a faulty release does.
        """
        before = already_quarantined(INTERNAL_ERROR, {bad.order_id for bad, _ in self._faults})
        new = [(bad, fault) for bad, fault in self._faults if bad.order_id not in before]
        if new and not self.result.accepted and not others_succeeded():
            raise IntakeFault(str(new[0][1]), [bad.order_id for bad, _ in new]) from new[0][1]
        for bad, fault in new:
            log.error("this order can't be opened, others can", order_id=bad.order_id, exc_info=fault)
            alarm(INTERNAL_ERROR, "an order is quarantined because of a mistake of ours", order_id=bad.order_id)
        self.quarantine_all([bad for bad, _ in self._faults])

    def quarantine_changes(self, suspects: Sequence[Suspect]) -> None:
        """What concerns an accepted order is quarantined and held; of the rest, what must not go by
        in silence is quarantined.

        Of an order's past, which came before what we accepted, nothing is held any more.
        """
        places = stored_places({suspect.order_id for suspect in suspects})
        for suspect in suspects:
            if _concerns_accepted(suspect, places):
                self._quarantine_and_hold(suspect.bad(suspect.code))
            elif suspect.otherwise:
                self._keep(suspect)
            else:
                self.result.filtered += 1

    def _keep(self, suspect: Suspect) -> None:
        """Quarantines what tells of an order that we don't hold; one that is being accepted right
        now is waited for, and is held then.
        """
        bad = suspect.bad(suspect.otherwise)
        with fenced(self._fence):
            lock_out_inserts()
            ours = _concerns_accepted(suspect, stored_places([suspect.order_id]))
            new = not ours and bool(quarantine([bad], self._source))
        if ours:
            self._quarantine_and_hold(suspect.bad(suspect.code))
        else:
            self._note(bad, new=new)

    def quarantine_all(self, found: Sequence[Bad]) -> None:
        """Quarantines what is bad in itself."""
        if not found:
            return
        with fenced(self._fence):
            new = {id(bad) for bad in quarantine(found, self._source)}
        for bad in found:
            self._note(bad, new=id(bad) in new)

    def _store(self, arrivals: Sequence[Hashed]) -> "_Stored[Ref]":
        """Raises IntakeFault also for what PostgreSQL itself fails with, which isn't known to be
        about a row: halving shows whether it is.
        """
        first: dict[str, Hashed] = {}
        for hashed in arrivals:
            first.setdefault(hashed.order_id, hashed)
        try:
            with fenced(self._fence):
                inserted = insert(first.values(), self._source)
                refs = self._follow(inserted, first) if inserted else []
                elsewhere = stored_hashes(first.keys() - inserted.keys())
        except InternalError as error:
            if _sqlstate(error).startswith(SESSION_CLASS):
                raise
            raise _fault(error, list(first)) from error
        repeats = [hashed for hashed in arrivals if hashed.order_id not in inserted or first[hashed.order_id] is not hashed]
        held = {order_id: hashed.order_hash for order_id, hashed in first.items()} | elsewhere
        return _Stored([first[order_id].arrival.order for order_id in inserted], refs, repeats, held)

    def _follow(self, inserted: dict[str, Inserted], arrivals: dict[str, Hashed]) -> Sequence[Ref]:
        """What follows from orders that were inserted: clearings, holds for what was told of them
        before they came, and watermarks.

        A hold takes the lane's lock of an order whose clearing was just opened: the transaction has
        it already.
        """
        in_quarantine = [order_id for order_id, row in inserted.items() if row.in_quarantine]
        codes = contradicted_orders(in_quarantine) if in_quarantine else {}
        accepted = [AcceptedOrder(inserted[key].pk, hashed.arrival.order) for key, hashed in arrivals.items() if key in inserted]
        refs = self._opened(accepted)
        for order_id, code in codes.items():
            log.warning("the order was told of before it came", order_id=order_id, reason=code)
            self._hold(order_id, code)
        raise_watermarks(stored.order for stored in accepted)
        return refs

    def _opened(self, accepted: Sequence[AcceptedOrder]) -> Sequence[Ref]:
        """Their clearings. The rows themselves were taken: whatever fails from here on is ours,
        unless the database is away.
        """
        try:
            return self._open_clearings(accepted)
        except DATABASE_AWAY:
            raise
        except Exception as error:
            raise _fault(error, [stored.order.order_id for stored in accepted]) from error

    def _after_commit(self, stored: "_Stored[Ref]") -> None:
        self.result.accepted += len(stored.accepted)
        self.refs += stored.refs
        now_ms = time.time() * 1000
        for order in stored.accepted:
            metrics.observe(metrics.Stage.COUNTER_TO_ACCEPTED, now_ms - order.created_ms)
        for repeat in stored.repeats:
            self._compare(repeat, stored.held)

    def _compare(self, repeat: Hashed, held: dict[str, str]) -> None:
        ours, theirs = held.get(repeat.order_id), repeat.order_hash
        if ours == theirs:
            self.result.known += 1
        else:
            detail = f"canonical hash {theirs}, ours is {ours}"
            self._quarantine_and_hold(Bad(CONTENTS_DIFFER, detail, repeat.order_id, repeat.arrival.origin, theirs))

    def _quarantine_and_hold(self, bad: Bad) -> None:
        """The message into quarantine and the hold onto the order's clearing, in one transaction;
        the same message again does neither.
        """
        with fenced(self._fence):
            kept = quarantine_contradiction(bad, self._source)
            if kept.holds:
                self._hold(bad.order_id, bad.reason)
        self._note(bad, new=kept.new)

    def _note(self, bad: Bad, *, new: bool) -> None:
        refused = bad.reason.startswith(REFUSED_PREFIX)
        if refused:
            self.result.refused += new
        else:
            self.result.quarantined += new
        self.result.known += not new
        if refused or bad.reason in {UNREADABLE, DATABASE_REFUSED, INTERNAL_ERROR}:
            (self.result.bad if new else self.result.bad_before).add(bad.origin.place)
        if new:
            topic, partition, offset = bad.origin.place
            place = {"topic": topic, "partition": partition, "offset": offset}
            log.warning("quarantined", reason=bad.reason, detail=bad.detail, order_id=bad.order_id, **place)


@dataclass(frozen=True, slots=True)
class _Stored(Generic[Ref]):
    accepted: Sequence[NewOrder]
    refs: Sequence[Ref]
    repeats: Sequence[Hashed]
    held: dict[str, str]  # canonical hashes by order id


def _concerns_accepted(suspect: Suspect, places: Mapping[str, tuple[Place, int]]) -> bool:
    """Whether it tells of an order that we hold, and of nothing that was past already when we
    accepted it.
    """
    if suspect.order_id not in places:
        return False
    place, at_ms = places[suspect.order_id]
    return not suspect.origin.is_before(place, at_ms + int(settings.CLOCK_SKEW_SECONDS_MAX * 1000))


def _fault(error: Exception, order_ids: Sequence[str]) -> IntakeFault:
    return IntakeFault(f"{type(error).__name__}: {str(error).strip()} (opening {', '.join(order_ids[:3])})", order_ids)


def _sqlstate(error: Exception) -> str:
    return getattr(error.__cause__, "pgcode", None) or ""
