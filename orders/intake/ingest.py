"""Ingest: rows of orders become SyncOrders, with what follows from them in the same transaction.
Every source goes through here.

Locks are taken in one order (design, rule 6): the fence's, the one of accepting
(orders/intake/order_store.py), the orders' keys (sorted), quarantined messages, the lanes that
`open_clearings` locks, the watermarks (sorted). A hold locks a lane of its own, so each is set in a
transaction of its own, with the quarantined message that causes it. No network call happens in a
transaction here, and `publish` is called after the last commit.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import structlog
from django.conf import settings
from django.db import DataError, IntegrityError, InternalError, OperationalError
from psycopg2.errors import QueryCanceled

from base import metrics
from base.alarms import alarm
from base.db import DATABASE_UNAVAILABLE, is_unavailable
from base.fence import Fence, fenced, no_fence
from orders.intake.bad_news import BadNews, Hold
from orders.intake.classify import (
    CONTENTS_DIFFER,
    DATABASE_REFUSED,
    INTERNAL_ERROR,
    Arrival,
    Bad,
    Item,
    Skipped,
    Suspect,
)
from orders.intake.early import early_and_due, tell_of_early
from orders.intake.faults import IntakeFault, never_succeeded
from orders.intake.mapping import NewOrder, canonical_hash
from orders.intake.order_store import Hashed, Inserted, insert, raise_watermarks, stored_hashes
from orders.intake.quarantine import already_quarantined, contradicted_orders
from orders.intake.result import IngestResult
from orders.models import Source

log = structlog.get_logger(__name__)
Ref = TypeVar("Ref")

# What PostgreSQL, or its driver before it, refuses in one row: a value out of range, a violated
# constraint, a NUL, a lone surrogate.
ROW_REFUSALS: Final = (DataError, IntegrityError, ValueError)
FENCED_ROWS_MAX: Final = 100  # of a transaction under a fence, which has FENCE_MS_MAX


@dataclass(frozen=True, slots=True)
class AcceptedOrder:
    """An order that was just stored."""

    sync_order_id: int
    order: NewOrder


class Intake(Protocol):
    """Ingests a batch: `ingest` with its other arguments bound (ops/wiring.py).

    The same batch may be ingested again at any time. Raises what `ingest` raises.
    """

    def __call__(self, items: Sequence[Item], /) -> IngestResult: ...


def no_report() -> None:
    """The `after_transaction` of a caller that needs no report."""


def nothing_archived(_order_ids: Collection[str]) -> Collection[str]:
    """The `archived` of a caller that knows of no finished order."""
    return ()


def ingest(
    batch: Sequence[Item],
    *,
    source: Source,
    open_clearings: Callable[[Sequence[AcceptedOrder]], Sequence[Ref]],
    hold: Hold,
    publish: Callable[[Sequence[Ref]], bool],
    archived: Callable[[Collection[str]], Collection[str]] = nothing_archived,
    fence: Fence = no_fence,
    others_succeeded: Callable[[], bool] = never_succeeded,
    after_transaction: Callable[[], None] = no_report,
) -> IngestResult:
    """Ingests a batch in transactions of INTAKE_BATCH_ROWS_MAX rows, and publishes the clearings
    that they opened. The same batch may be ingested again at any time.

    `open_clearings` and `hold` (order id, code) run in the open transaction, `fence` at the start
    of each (base/fence.py), `after_transaction` when each has ended. `archived` says which orders
    are finished for so long that the counter may delete them. `publish` runs after the last
    commit, once every hold is set, and returns False for what it couldn't send. The sweep sends
    that, and whatever a crash or an error before `publish` left unsent.

    If `open_clearings` fails with some orders only, these are quarantined with an alarm, and the
    others are accepted. If it fails with every new order of the batch, IntakeFault is raised, since
    the release may be to blame, unless `others_succeeded` says that other orders were accepted
    meanwhile. Raises also NotStarted, TermOutdated, and the database's errors that aren't about a
    row.
    """
    run = _Ingest(source, open_clearings, hold, fence, after_transaction)
    run.accept_all(run.hashed([item for item in batch if isinstance(item, Arrival)]))
    run.bad_news.changes([item for item in batch if isinstance(item, Suspect)], archived)
    run.result.unpublished += _unpublished(run.refs, publish)
    run.bad_news.quarantine_all([item for item in batch if isinstance(item, Bad)])
    run.bad_news.report()
    run.result.filtered += sum(isinstance(item, Skipped) for item in batch)
    run.quarantine_faulty(others_succeeded)
    _count(run.result, source)
    return run.result


def _count(result: IngestResult, source: Source) -> None:
    for label in metrics.IntakeResult:
        rows = getattr(result, label.value)
        if rows:
            metrics.INTAKE_ROWS.labels(source.value, label.value).inc(rows)


def _unpublished(refs: Sequence[Ref], publish: Callable[[Sequence[Ref]], bool]) -> int:
    """Publishes the clearings. Returns how many are left to the sweep."""
    try:
        return 0 if not refs or publish(refs) else len(refs)
    except Exception:
        log.exception("publish failed", clearings=len(refs), fix="nothing: the sweep sends them")
        return len(refs)


class _Ingest(Generic[Ref]):
    """One call of `ingest`."""

    def __init__(
        self,
        source: Source,
        open_clearings: Callable[[Sequence[AcceptedOrder]], Sequence[Ref]],
        hold: Hold,
        fence: Fence,
        after_transaction: Callable[[], None],
    ) -> None:
        self.result = IngestResult()
        self.refs: list[Ref] = []  # to be published
        self._source = source
        self._open_clearings = open_clearings
        self._hold = hold
        self._fence = fence
        self._after_transaction = after_transaction
        self._rows_max = settings.INTAKE_BATCH_ROWS_MAX if fence is no_fence else min(FENCED_ROWS_MAX, settings.INTAKE_BATCH_ROWS_MAX)
        self._faults: list[tuple[Bad, IntakeFault]] = []
        self.bad_news = BadNews(source, hold, self._transaction, self._rows_max, self.result)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction under the fence; its end, whichever it is, is reported."""
        try:
            with fenced(self._fence):
                yield
        finally:
            self._after_transaction()

    def hashed(self, arrivals: Sequence[Arrival]) -> list[Hashed]:
        """The arrivals with their canonical hashes. Orders from another source than Kafka are
        nearly always known: these are compared at once, and left out of the result.

        That needs no transaction: an order's row is never changed.
        """
        hashed_arrivals = [Hashed(arrival, canonical_hash(arrival.order)) for arrival in arrivals]
        if self._source is Source.KAFKA:
            return hashed_arrivals
        stored = stored_hashes({hashed.order_id for hashed in hashed_arrivals})
        for repeat in hashed_arrivals:
            if repeat.order_id in stored:
                self._compare(repeat, stored)
        return [hashed for hashed in hashed_arrivals if hashed.order_id not in stored]

    def accept_all(self, arrivals: Sequence[Hashed]) -> None:
        """Stores the new ones among them, in as many transactions as it takes."""
        done = 0
        while done < len(arrivals):
            part = arrivals[done : done + self._rows_max]
            self._accept(part)
            done += len(part)

    def _accept(self, arrivals: Sequence[Hashed]) -> None:
        """Stores them in one transaction. A row that the database refuses, or that causes an
        internal error, is found by halving and quarantined alone. A transaction that
        ran out of time is halved as well.
        """
        began = time.monotonic()
        try:
            stored = self._store(arrivals)
        except (*ROW_REFUSALS, IntakeFault) as error:
            if len(arrivals) == 1:
                self._handle_failed_row(arrivals[0], error)
                return
            self._accept_halves(arrivals)
        except DATABASE_UNAVAILABLE as error:
            if len(arrivals) == 1 or not self._was_slow(error, time.monotonic() - began):
                raise
            self._rows_max = len(arrivals) // 2
            log.info("fewer rows in a transaction", rows=self._rows_max, error=str(error).strip())
            self._accept_halves(arrivals)
        else:
            self._after_commit(stored)

    def _was_slow(self, error: Exception, seconds: float) -> bool:
        """Whether a failed transaction may have exceeded its time limits: a statement's, or under a
        fence its own (base/sql/01_fence.sql), which end its session, and the error doesn't say so.

        If the database is unavailable instead, the next transaction fails at once.
        """
        if isinstance(error.__cause__, QueryCanceled):
            return True
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
            self.bad_news.quarantine_all([Bad(DATABASE_REFUSED, f"{type(error).__name__}: {error}", order_id, origin, hashed.order_hash)])

    def quarantine_faulty(self, others_succeeded: Callable[[], bool]) -> None:
        """Quarantines the orders that caused internal errors, once all others are accepted. Raises
        IntakeFault if no other order was: then the release may be to blame, and the orders must
        wait for a mended one.
        """
        quarantined = already_quarantined(INTERNAL_ERROR, {bad.order_id for bad, _ in self._faults})
        new = [(bad, fault) for bad, fault in self._faults if bad.order_id not in quarantined]
        if new and not self.result.accepted and not others_succeeded():
            raise IntakeFault(str(new[0][1]), [bad.order_id for bad, _ in new]) from new[0][1]
        for bad, fault in new:
            log.error("this order can't be opened, others can", order_id=bad.order_id, exc_info=fault)
            alarm(INTERNAL_ERROR, "an order is quarantined because of an internal error", order_id=bad.order_id)
        self.bad_news.quarantine_all([bad for bad, _ in self._faults])

    def _store(self, arrivals: Sequence[Hashed]) -> "_Stored[Ref]":
        """Raises IntakeFault also for PostgreSQL's own internal errors, which may be about a row or
        not: halving shows it.
        """
        first: dict[str, Hashed] = {}
        for hashed in arrivals:
            first.setdefault(hashed.order_id, hashed)
        try:
            with self._transaction():
                inserted = insert(first.values(), self._source)
                refs = self._open_and_hold(inserted, first) if inserted else []
                stored = stored_hashes(first.keys() - inserted.keys())
                left_out = first.keys() - inserted.keys() - stored.keys()
        except InternalError as error:
            if is_unavailable(error):
                raise OperationalError(*error.args) from error
            raise IntakeFault.of(error, list(first)) from error
        others = [hashed for hashed in arrivals if hashed.order_id not in inserted or first[hashed.order_id] is not hashed]
        repeats = [hashed for hashed in others if hashed.order_id not in left_out]
        hashes = {order_id: hashed.order_hash for order_id, hashed in first.items()} | stored
        accepted = [first[order_id].arrival.order for order_id in inserted]
        return _Stored(accepted, refs, repeats, hashes, [hashed for hashed in others if hashed.order_id in left_out])

    def _open_and_hold(self, inserted: dict[str, Inserted], arrivals: dict[str, Hashed]) -> Sequence[Ref]:
        """What follows from orders that were inserted: clearings, holds for those that a
        quarantined message contradicts, and watermarks.

        A hold takes the lane lock of an order whose clearing was just opened: the transaction has
        it already.
        """
        named = [order_id for order_id, row in inserted.items() if row.in_quarantine]
        codes = contradicted_orders(named) if named else {}
        accepted = [AcceptedOrder(inserted[key].pk, hashed.arrival.order) for key, hashed in arrivals.items() if key in inserted]
        refs = self._open(accepted)
        for order_id, code in codes.items():
            log.warning("a quarantined message contradicts a new order: put on hold", order_id=order_id, reason=code)
            self._hold(order_id, code)
        raise_watermarks(stored.order for stored in accepted)
        return refs

    def _open(self, accepted: Sequence[AcceptedOrder]) -> Sequence[Ref]:
        """Their clearings. The database has accepted the rows: any error from here on is internal,
        unless the database is unavailable.
        """
        try:
            return self._open_clearings(accepted)
        except (*DATABASE_UNAVAILABLE, InternalError):  # _store tells these apart
            raise
        except Exception as error:
            raise IntakeFault.of(error, [stored.order.order_id for stored in accepted]) from error

    def _after_commit(self, stored: "_Stored[Ref]") -> None:
        self.result.accepted += len(stored.accepted)
        self.refs += stored.refs
        now_ms = time.time() * 1000
        for order in stored.accepted:
            metrics.observe(metrics.Stage.COUNTER_TO_ACCEPTED, now_ms - order.created_ms)
        for repeat in stored.repeats:
            self._compare(repeat, stored.hashes)
        if stored.left_out:
            early, due = early_and_due(stored.left_out)
            refused = self.result.refused
            self.bad_news.quarantine_all(early)
            if self.result.refused > refused:
                tell_of_early(early)
            self.accept_all(due)

    def _compare(self, repeat: Hashed, hashes: dict[str, str]) -> None:
        stored_hash, new_hash = hashes.get(repeat.order_id), repeat.order_hash
        if stored_hash == new_hash:
            self.result.known += 1
        else:
            detail = f"canonical hash {new_hash}, ours is {stored_hash}"
            self.bad_news.contradicts(Bad(CONTENTS_DIFFER, detail, repeat.order_id, repeat.arrival.origin, new_hash))


@dataclass(frozen=True, slots=True)
class _Stored(Generic[Ref]):
    accepted: Sequence[NewOrder]
    refs: Sequence[Ref]
    repeats: Sequence[Hashed]
    hashes: dict[str, str]  # canonical hashes by order id
    left_out: Sequence[Hashed]  # neither accepted nor stored
