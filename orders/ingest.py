"""The one way in: rows of orders become SyncOrders, with what follows from them in the same transaction.

Locks are taken in one order (design, rule 6): the fence's, the orders' keys (sorted), the lanes that `open_clearings` locks, the watermarks
(sorted). A hold locks a lane of its own, so each is set in a transaction of its own, with the quarantined message that it is about. No
network call happens in a transaction here, and `publish` is called after the commit.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, NamedTuple, TypeVar

import structlog
from django.conf import settings
from django.db import DataError, IntegrityError, InterfaceError, InternalError, OperationalError, connection

from base import metrics
from base.alarms import alarm
from base.fence import Fence, fenced, no_fence
from orders.arrivals import CONTENTS_DIFFER, DATABASE_REFUSED, INTERNAL_ERROR, REFUSED_PREFIX, UNREADABLE, Arrival, Bad, Item, Place, Skipped, Suspect
from orders.mapping import NewOrder, canonical_hash
from orders.models import Source
from orders.quarantine import put_away_before, quarantine

log = structlog.get_logger(__name__)
Ref = TypeVar("Ref")

# What PostgreSQL, or its driver before it, refuses of one row: out of range, a violated constraint, a NUL, a lone surrogate.
ROW_REFUSALS: Final = (DataError, IntegrityError, ValueError)
DATABASE_AWAY: Final = (OperationalError, InterfaceError, InternalError)  # it doesn't serve us now; nothing is wrong with any row
INTAKE_FAULT: Final = "intake_fault"
FAULT_FIX: Final = "the cause is in this log: go back to the release before, or deploy a mended one; nothing is lost meanwhile, all is tried again"

_INSERT = """
    INSERT INTO orders_syncorder (order_id, user_id, shard, sequence, contract_id, direction, asset, quantity, quoted_usdt, instrument,
        created_ms, canonical_hash, topic, partition, "offset", source)
    SELECT v.*, %s FROM unnest(%s::text[], %s::text[], %s::int[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::numeric[],
        %s::numeric[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::int[], %s::bigint[]) AS v (order_id)
    WHERE NOT EXISTS (SELECT FROM orders_syncorder o WHERE o.order_id = v.order_id)
    ORDER BY v.order_id ON CONFLICT (order_id) DO NOTHING RETURNING id, order_id
"""
_HASHES = "SELECT order_id, canonical_hash FROM orders_syncorder WHERE order_id = ANY (%s)"
_NEWEST = "SELECT shard, newest_ms FROM orders_watermark WHERE shard = ANY (%s)"
_RAISE_NEWEST = """
    INSERT INTO orders_watermark (shard, newest_ms, scanned_through_ms, found_by_gap)
    SELECT v.shard, v.newest_ms, 0, 0 FROM unnest(%s::int[], %s::bigint[]) AS v (shard, newest_ms) ORDER BY v.shard
    ON CONFLICT (shard) DO UPDATE SET newest_ms = EXCLUDED.newest_ms WHERE orders_watermark.newest_ms < EXCLUDED.newest_ms
"""


class IntakeFault(Exception):  # noqa: N818 - named by what it tells
    """A mistake of ours: the rows are valid and PostgreSQL takes them, but what follows from them fails. Nothing of them is stored."""


class Hashed(NamedTuple):
    """An arrival with its order's canonical hash."""

    arrival: Arrival
    order_hash: str

    @property
    def order_id(self) -> str:
        return self.arrival.order.order_id


@dataclass(frozen=True, slots=True)
class AcceptedOrder:
    """An order that was just stored."""

    sync_order_id: int
    order: NewOrder


@dataclass(slots=True)
class IngestResult:
    """What became of a batch, in rows. `bad` and `bad_before`: the messages that can't be read or aren't valid, new ones and repeated ones."""

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


def ingest(
    batch: Sequence[Item],
    *,
    source: Source,
    open_clearings: Callable[[Sequence[AcceptedOrder]], Sequence[Ref]],
    hold: Callable[[str, str], None],
    publish: Callable[[Sequence[Ref]], bool],
    fence: Fence = no_fence,
) -> IngestResult:
    """Takes everything in that a batch brings, in transactions of INTAKE_BATCH_ROWS_MAX rows, and publishes what they opened.

    `open_clearings` and `hold` (order id, code) run in the open transaction, `fence` at the start of each (base/fence.py); `publish` runs
    after the commit and answers False for what it couldn't send. Safe to repeat as a whole. Raises TermOutdated, the database's errors that
    aren't about a row, and IntakeFault where `open_clearings` fails with every new order of the batch: then it isn't the orders' fault.
    Fails it with some alone, these are quarantined with an alarm, and the others go on.
    """
    run = _Ingest(source, open_clearings, hold, publish, fence)
    arrivals = run.hashed([item for item in batch if isinstance(item, Arrival)])
    for start in range(0, len(arrivals), settings.INTAKE_BATCH_ROWS_MAX):
        run.accept(arrivals[start : start + settings.INTAKE_BATCH_ROWS_MAX])
    run.look_into([item for item in batch if isinstance(item, Suspect)])
    run.put_away([item for item in batch if isinstance(item, Bad)])
    run.result.filtered += sum(isinstance(item, Skipped) for item in batch)
    run.judge_faults()
    _count(run.result, source)
    return run.result


def _count(result: IngestResult, source: Source) -> None:
    for label in metrics.IntakeResult:
        rows = getattr(result, label.value)
        if rows:
            metrics.INTAKE_ROWS.labels(source.value, label.value).inc(rows)


class _Ingest(Generic[Ref]):
    """One call of `ingest`."""

    def __init__(
        self,
        source: Source,
        open_clearings: Callable[[Sequence[AcceptedOrder]], Sequence[Ref]],
        hold: Callable[[str, str], None],
        publish: Callable[[Sequence[Ref]], bool],
        fence: Fence,
    ) -> None:
        self.result = IngestResult()
        self._source = source
        self._open_clearings = open_clearings
        self._hold = hold
        self._publish = publish
        self._fence = fence
        self._faults: list[tuple[Bad, IntakeFault]] = []

    def hashed(self, arrivals: Sequence[Arrival]) -> list[Hashed]:
        """Each with its canonical hash. What isn't from Kafka is nearly always known: it is compared at once, and only the rest is returned.

        No transaction is needed for that: an order's row is never changed.
        """
        found = [Hashed(arrival, canonical_hash(arrival.order)) for arrival in arrivals]
        if self._source is Source.KAFKA:
            return found
        held = _stored_hashes({hashed.order_id for hashed in found})
        for repeat in found:
            if repeat.order_id in held:
                self._compare(repeat, held)
        return [hashed for hashed in found if hashed.order_id not in held]

    def accept(self, arrivals: Sequence[Hashed]) -> None:
        """Stores the new ones among them; a row that the database refuses, or that we fail with, is found by halving, and put away alone."""
        try:
            stored = self._store(arrivals)
        except (*ROW_REFUSALS, IntakeFault) as error:
            if len(arrivals) == 1:
                self._set_aside(arrivals[0].arrival, error)
                return
            middle = len(arrivals) // 2
            self.accept(arrivals[:middle])
            self.accept(arrivals[middle:])
        else:
            self._after_commit(stored)

    def _set_aside(self, arrival: Arrival, error: Exception) -> None:
        if isinstance(error, IntakeFault):
            self._faults.append((Bad(INTERNAL_ERROR, str(error), arrival.order.order_id, arrival.origin), error))
        else:
            self.put_away([Bad(DATABASE_REFUSED, f"{type(error).__name__}: {error}", arrival.order.order_id, arrival.origin)])

    def judge_faults(self) -> None:
        """What we fail with, once the rest is in: no order's fault where we fail with all of them, as a faulty release does."""
        before = put_away_before(INTERNAL_ERROR, {bad.order_id for bad, _ in self._faults})
        new = [(bad, fault) for bad, fault in self._faults if bad.order_id not in before]
        if new and not self.result.accepted:
            bad, fault = new[0]
            alarm(INTAKE_FAULT, "no order can be opened", error=str(fault), order_id=bad.order_id, orders=len(new), fix=FAULT_FIX, exc_info=fault)
            raise fault
        for bad, fault in new:
            log.error("this order can't be opened, others can", order_id=bad.order_id, exc_info=fault)
            alarm(INTERNAL_ERROR, "an order is quarantined because of a mistake of ours", order_id=bad.order_id)
        self.put_away([bad for bad, _ in self._faults])

    def look_into(self, suspects: Sequence[Suspect]) -> None:
        """What concerns an accepted order is quarantined and held; of the rest, what must not go by in silence is quarantined."""
        held = _stored_hashes({suspect.order_id for suspect in suspects})
        for suspect in suspects:
            if suspect.order_id in held:
                self._set_apart(Bad(suspect.code, suspect.detail, suspect.order_id, suspect.origin))
            elif suspect.otherwise:
                self.put_away([Bad(suspect.otherwise, suspect.detail, suspect.order_id, suspect.origin)])
            else:
                self.result.filtered += 1

    def put_away(self, found: Sequence[Bad]) -> None:
        """Quarantines what is bad in itself."""
        if not found:
            return
        with fenced(self._fence):
            new = {id(bad) for bad in quarantine(found, self._source)}
        for bad in found:
            self._note(bad, new=id(bad) in new)

    def _store(self, arrivals: Sequence[Hashed]) -> "_Stored[Ref]":
        first: dict[str, Hashed] = {}
        for hashed in arrivals:
            first.setdefault(hashed.order_id, hashed)
        with fenced(self._fence):
            keys = _insert(first.values(), self._source)
            refs: Sequence[Ref] = []
            if keys:
                accepted = [AcceptedOrder(keys[order_id], hashed.arrival.order) for order_id, hashed in first.items() if order_id in keys]
                refs = self._opened(accepted)
                _raise_watermarks(accepted)
            elsewhere = _stored_hashes(first.keys() - keys.keys())
        repeats = [hashed for hashed in arrivals if hashed.order_id not in keys or first[hashed.order_id] is not hashed]
        held = {order_id: hashed.order_hash for order_id, hashed in first.items()} | elsewhere
        return _Stored([first[order_id].arrival.order for order_id in keys], refs, repeats, held)

    def _opened(self, accepted: Sequence[AcceptedOrder]) -> Sequence[Ref]:
        """Their clearings. The rows themselves were taken: whatever fails from here on is ours, unless the database is away."""
        try:
            return self._open_clearings(accepted)
        except DATABASE_AWAY:
            raise
        except Exception as error:
            names = ", ".join(stored.order.order_id for stored in accepted[:3])
            raise IntakeFault(f"{type(error).__name__}: {error} (opening {names})") from error

    def _after_commit(self, stored: "_Stored[Ref]") -> None:
        """Holds come before the publishing: an order that changed within its own batch isn't sent on its way first."""
        self.result.accepted += len(stored.accepted)
        now_ms = time.time() * 1000
        for order in stored.accepted:
            metrics.observe(metrics.Stage.COUNTER_TO_ACCEPTED, now_ms - order.created_ms)
        for repeat in stored.repeats:
            self._compare(repeat, stored.held)
        if stored.refs and not self._published(stored.refs):
            self.result.unpublished += len(stored.refs)

    def _compare(self, repeat: Hashed, held: dict[str, str]) -> None:
        ours, theirs = held.get(repeat.order_id), repeat.order_hash
        if ours == theirs:
            self.result.known += 1
        else:
            self._set_apart(Bad(CONTENTS_DIFFER, f"canonical hash {theirs}, ours is {ours}", repeat.order_id, repeat.arrival.origin))

    def _set_apart(self, bad: Bad) -> None:
        """The message into quarantine and the hold onto the order's clearing, in one transaction; the same message again does neither."""
        with fenced(self._fence):
            new = bool(quarantine([bad], self._source))
            if new:
                self._hold(bad.order_id, bad.reason)
        self._note(bad, new=new)

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

    def _published(self, refs: Sequence[Ref]) -> bool:
        try:
            return self._publish(refs)
        except Exception:
            log.exception("publish failed", clearings=len(refs), fix="nothing: the sweep sends them again")
            return False


@dataclass(frozen=True, slots=True)
class _Stored(Generic[Ref]):
    accepted: Sequence[NewOrder]
    refs: Sequence[Ref]
    repeats: Sequence[Hashed]
    held: dict[str, str]  # canonical hashes by order id


def _insert(orders: Iterable[Hashed], source: Source) -> dict[str, int]:
    """Inserts what isn't there, in the order of its keys. Returns the new rows' primary keys by order id."""
    rows = [
        (
            *(order.order_id, order.user_id, order.shard, order.sequence, order.contract_id, order.direction, order.asset),
            *(order.quantity, order.quoted_usdt, order.instrument, order.created_ms, order_hash, *arrival.origin.place),
        )
        for arrival, order_hash in orders
        for order in (arrival.order,)
    ]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [source.value, *map(list, zip(*rows, strict=True))])
        return {order_id: pk for pk, order_id in cursor.fetchall()}


def _stored_hashes(order_ids: set[str]) -> dict[str, str]:
    if not order_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_HASHES, [sorted(order_ids)])
        return dict(cursor.fetchall())


def _raise_watermarks(accepted: Sequence[AcceptedOrder]) -> None:
    """The last statement before the commit, and only for the shards that move, so that the rows are locked as shortly as may be."""
    newest: dict[int, int] = {}
    for stored in accepted:
        newest[stored.order.shard] = max(stored.order.created_ms, newest.get(stored.order.shard, 0))
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, [list(newest)])
        known: dict[int, int] = dict(cursor.fetchall())
        moved = {shard: at_ms for shard, at_ms in newest.items() if at_ms > known.get(shard, -1)}
        if moved:
            cursor.execute(_RAISE_NEWEST, [list(moved), list(moved.values())])
