"""Reconcile: compares our orders of the last hours with the counter's sync-order table and with its
order table, the independent source.

Counts by minute are compared first, ids only for the minutes in which the three counts differ.
Missing orders go through the same mapping and ingest as all others. Two differences of opposite
sign in one minute of one shard cancel out and stay unseen: the price of not reading every row.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from django.db import Error as DatabaseError
from django.db import connection

from base.alarms import alarm
from base.clock import ServiceNow
from base.db import drop_broken_connection
from base.fence import Fence, TermOutdated, fenced, no_fence
from orders.backfill.counter_api import DIGITS_MAX, PAGES_MAX, CounterTables, InterfaceFailed, Position, Table, next_position, storable
from orders.backfill.deferred import DeferredBatches
from orders.backfill.gap_pass import interface_origin
from orders.intake import faults
from orders.intake.classify import GAP_PREFIX, ORDER_TABLE_PREFIX, read_row
from orders.intake.faults import IntakeFault
from orders.intake.ingest import Intake
from orders.intake.mapping import Row, Rules, stated_order_id
from orders.models import ReconcileRun, SyncOrder

log = structlog.get_logger(__name__)

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS  # of one request: responses stay small, and our own count stays far below the statement timeout
ID_MAX: Final = 10**18 - 1  # of the interface
IDS_KEPT_MAX: Final = 200
RUNS_KEPT: Final = timedelta(days=30)
ROW_NAME_LENGTH_MAX: Final = 100  # of a row that names no order
RECONCILE_FAILED: Final = "reconcile_failed"
FAILED_RUNS_BEFORE_ALARM: Final = 3  # of one shard, in a row
PREFIXES: Final = {Table.SYNC_ORDERS: GAP_PREFIX, Table.ORDERS: ORDER_TABLE_PREFIX}

_OURS = """
    SELECT created_ms / 60000 * 60000, count(*) FROM orders_syncorder WHERE shard = %s AND created_ms >= %s AND created_ms < %s GROUP BY 1
"""


@dataclass(frozen=True, slots=True)
class Window:
    """From `from_ms` up to, and without, `to_ms`: milliseconds of the counter's clock."""

    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class Reconcile:
    """One comparison of every shard. `intake` takes rows in; what is younger than `settle_ms` is
    left to the stream and the gap pass.

    Both `intake` and what is noted here write under the fence.
    """

    tables: CounterTables
    intake: Intake
    rules: Rules
    page_rows: int
    settle_ms: int
    fence: Fence = no_fence

    def run(self, hours: float) -> list[ReconcileRun]:
        """Compares the last hours and stores a ReconcileRun for each shard.

        Raises InterfaceFailed if the counter doesn't list its shards, and TermOutdated.
        """
        listed = self.tables.shards()
        to_ms = listed.now_ms - self.settle_ms
        window = Window(max(to_ms - int(hours * HOUR_MS), self.rules.since_ms, 0), to_ms)
        runs = [self._reconcile(shard, window) for shard in sorted(listed.shards)]
        with fenced(self.fence):
            ReconcileRun.objects.filter(at__lt=ServiceNow() - RUNS_KEPT).delete()
        return runs

    def _reconcile(self, shard: int, window: Window) -> ReconcileRun:
        run = ReconcileRun(shard=shard, from_ms=window.from_ms, to_ms=window.to_ms)
        deferred = DeferredBatches(self.intake)
        try:
            for hour in _parts(window, HOUR_MS):
                for minute in self._differing(run, hour):
                    self._compare(run, minute, deferred)
            run.fetched += sum(ingested.accepted for ingested in deferred.retry())
        except (InterfaceFailed, IntakeFault, DatabaseError) as error:
            drop_broken_connection()
            if isinstance(error, IntakeFault):
                faults.raise_alarm(error)
            run.error = storable(str(error).strip())
        except TermOutdated:
            raise
        except Exception as error:  # whatever it is, it concerns this shard's answers alone
            drop_broken_connection()
            log.exception("internal error while comparing a shard", shard=shard)
            run.error = storable(f"internal error: {type(error).__name__}: {error}")
        with fenced(self.fence):
            run.save()
        _report(run)
        return run

    def _differing(self, run: ReconcileRun, hour: Window) -> list[Window]:
        """Adds the hour's counts to the run. Returns the minutes in which the three counts
        differ.
        """
        ours, sync_table, order_table = _ours(run.shard, hour), *(self._counts(table, run.shard, hour) for table in Table)
        run.ours += ours.total()
        run.sync_table += sync_table.total()
        run.order_table += order_table.total()
        minutes = [at for at in sorted(ours | sync_table | order_table) if not ours[at] == sync_table[at] == order_table[at]]
        run.minutes += len(minutes)
        return [Window(max(at, hour.from_ms), min(at + MINUTE_MS, hour.to_ms)) for at in minutes]

    def _counts(self, table: Table, shard: int, window: Window) -> Counter[int]:
        found = self.tables.counts(table, shard, window.from_ms, window.to_ms).minutes
        return Counter({at: sum(rows for kind, rows in kinds.items() if kind in self.rules.exchange_kinds) for at, kinds in found.items()})

    def _compare(self, run: ReconcileRun, minute: Window, deferred: DeferredBatches) -> None:
        """Compares the ids of a minute, and ingests the orders that we don't hold: from the
        sync-order table, or if they aren't there from the order table.
        """
        rows_of = {table: dict(self._rows(table, run.shard, minute)) for table in Table}
        sync_table, order_table = rows_of[Table.SYNC_ORDERS], rows_of[Table.ORDERS]
        ours = _our_ids(run.shard, minute)
        missing = {table: [order_id for order_id in rows if order_id not in ours] for table, rows in rows_of.items()}
        missing[Table.ORDERS] = [order_id for order_id in missing[Table.ORDERS] if order_id not in sync_table]
        for table, order_ids in missing.items():
            rows = [rows_of[table][order_id] for order_id in order_ids]
            deferred.ingest([read_row(row, interface_origin(PREFIXES[table], run.shard, row), self.rules) for row in rows])
        missing_ids = missing[Table.SYNC_ORDERS] + missing[Table.ORDERS]
        run.fetched += SyncOrder.objects.filter(order_id__in=missing_ids).count() if missing_ids else 0
        run.missing += _note_ids(run, "missing", missing_ids)
        run.no_sync_row += _note_ids(run, "no_sync_row", sorted(order_table.keys() - sync_table.keys()))
        run.unknown += _note_ids(run, "unknown", sorted(ours - sync_table.keys() - order_table.keys()))

    def _rows(self, table: Table, shard: int, window: Window) -> Iterator[tuple[str, Row]]:
        """The exchange rows of the window by order id. A row without a valid order id is listed by
        its row id; `intake` quarantines it.
        """
        position: Position | None = Position(max(window.from_ms - 1, 0), ID_MAX if window.from_ms else 0)
        for pages in itertools.count():
            if position is None or position.ms >= window.to_ms:
                break
            if pages == PAGES_MAX:
                raise InterfaceFailed(f"{table} of one minute has more than {PAGES_MAX} pages: the rest isn't read")
            page = self.tables.rows(table, shard, position, self.page_rows)
            for row in page.rows:
                if row.get("kind") in self.rules.exchange_kinds and window.from_ms <= _created_ms(row) < window.to_ms:
                    yield stated_order_id(row) or storable(f"row {row.get('id')}")[:ROW_NAME_LENGTH_MAX], row
            position = next_position(page, position)


def _parts(window: Window, length_ms: int) -> Iterator[Window]:
    """The window cut at whole multiples of `length_ms`."""
    from_ms = window.from_ms
    while from_ms < window.to_ms:
        to_ms = min((from_ms // length_ms + 1) * length_ms, window.to_ms)
        yield Window(from_ms, to_ms)
        from_ms = to_ms


def _ours(shard: int, window: Window) -> Counter[int]:
    with connection.cursor() as cursor:
        cursor.execute(_OURS, [shard, window.from_ms, window.to_ms])
        return Counter(dict(cursor.fetchall()))


def _our_ids(shard: int, window: Window) -> set[str]:
    rows = SyncOrder.objects.filter(shard=shard, created_ms__gte=window.from_ms, created_ms__lt=window.to_ms)
    return set(rows.values_list("order_id", flat=True))


def _created_ms(row: Row) -> int:
    text = str(row.get("created_ms"))
    return int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX else -1


def _note_ids(run: ReconcileRun, kind: str, order_ids: Sequence[str]) -> int:
    """Adds the first ids to the run under this kind. Returns how many there are in all."""
    if order_ids:
        known: list[str] = run.order_ids.setdefault(kind, [])
        known += order_ids[: IDS_KEPT_MAX - len(known)]
    return len(order_ids)


def _report(run: ReconcileRun) -> None:
    counts = {"shard": run.shard, "missing": run.missing, "fetched": run.fetched, "unknown": run.unknown, "no_sync_row": run.no_sync_row}
    if run.error:
        log.warning("reconcile failed", shard=run.shard, error=run.error, fix="nothing: the next run compares the same hours")
        latest = list(ReconcileRun.objects.filter(shard=run.shard).order_by("-pk").values_list("error", flat=True)[:FAILED_RUNS_BEFORE_ALARM])
        if len(latest) == FAILED_RUNS_BEFORE_ALARM and all(latest):
            alarm(RECONCILE_FAILED, "a shard isn't compared with the counter any more", shard=run.shard, error=run.error)
    if run.difference:
        alarm("reconcile_difference", "our orders differ from the counter's", **counts, order_ids=run.order_ids)
    elif run.no_sync_row:
        log.warning("orders without a sync order at the counter", **counts, order_ids=run.order_ids.get("no_sync_row"))
