"""Gap compensation: asks the counter's interface for the orders that the binlog didn't bring
(design, section 8).

Each shard is read from `scanned_through_ms` on, page by page, through the same mapping and `ingest`
as the consumer's rows. Only a finished pass moves that position, and never past the counter's own
clock at the pass's first query, less the overlap. So the next pass reads again whatever could have
been missed: rows that were committed late, rows with equal milliseconds, rows with a time in the
future, everything since a pass failed. If the counter's clock is ahead of ours, the position moves
only as far as our own clock allows; a position that is ahead of the counter's clock hides nothing,
since the overlap is always read.

A pass reads PAGES_MAX pages of a shard at most, and then moves the position to where it came, so
that no shard keeps the others waiting; the next pass goes on from there.

An order that can't be opened because of an internal error doesn't block the pages after it. Whether
the order or the release is to blame is decided at the end of the pass. Nor does an internal error
with one shard's answers stop the other shards.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection

from base.alarms import alarm
from base.db import drop_broken_connection
from base.fence import Fence, TermOutdated, fenced, no_fence
from orders.backfill.counter_api import PAGES_MAX, InterfaceFailed, Position, SyncOrderInterface, next_position, storable
from orders.backfill.deferred import DeferredBatches
from orders.intake import faults
from orders.intake.classify import GAP_PREFIX, Item, Origin, read_row
from orders.intake.faults import IntakeFault
from orders.intake.ingest import Intake
from orders.intake.mapping import Rules
from orders.intake.result import IngestResult
from orders.models import Watermark

log = structlog.get_logger(__name__)

SHARD_LIST = "list"  # the key among the failed shards if the counter didn't list its shards
OFFSET_MAX = 2**63 - 1  # of the quarantine's column; larger ids share the offset -1

SHARD_FAILED = "gap_pass_failed"
POSITION_AHEAD = "gap_position_ahead"
POSITION_FIX = "compare the counter's clock with PostgreSQL's, then `manage.py compensate --since` the last time when it was surely right"

# A position further ahead than our own clock allows was set by a counter's clock that was ahead: it
# moves back.
_MOVE = """
    WITH clock AS (SELECT (extract(epoch FROM service_now()) * 1000)::bigint + %(skew_ms)s AS ms),
        this AS (SELECT greatest(least(%(now_ms)s, clock.ms) - %(overlap_ms)s, 0) AS through_ms FROM clock)
    INSERT INTO orders_watermark AS w (shard, newest_ms, scanned_through_ms, found_by_gap, scanned_at)
    SELECT %(shard)s, 0, through_ms, 0, service_now() FROM this
    ON CONFLICT (shard) DO UPDATE SET scanned_at = EXCLUDED.scanned_at, scanned_through_ms = CASE
        WHEN w.scanned_through_ms > (SELECT ms FROM clock) THEN EXCLUDED.scanned_through_ms
        ELSE greatest(w.scanned_through_ms, EXCLUDED.scanned_through_ms) END
"""
_COUNT = """
    INSERT INTO orders_watermark AS w (shard, newest_ms, scanned_through_ms, found_by_gap) VALUES (%s, 0, 0, %s)
    ON CONFLICT (shard) DO UPDATE SET found_by_gap = w.found_by_gap + EXCLUDED.found_by_gap
"""


@dataclass(slots=True)
class GapResult:
    """The result of a pass: rows read, what became of them, and the shards (or SHARD_LIST) that
    failed, each with the reason.
    """

    rows: int = 0
    ingested: IngestResult = field(default_factory=IngestResult)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _ShardRead:
    """The reading of one shard: batches deferred to the end of the pass, the counter's clock at its
    first page, and how many orders it brought. `read_to_ms`: where it was broken off.
    """

    shard: int
    deferred: DeferredBatches
    now_ms: int | None = None
    found: int = 0
    read_to_ms: int | None = None


@dataclass(frozen=True, slots=True)
class GapPass:
    """One pass over every shard. `intake` ingests rows with the source gap. Everything is written
    under the fence.
    """

    interface: SyncOrderInterface
    intake: Intake
    rules: Rules
    overlap_ms: int
    page_rows: int
    fence: Fence = no_fence

    def run(self, only: int | None = None, since_ms: int | None = None) -> GapResult:
        """Reads every shard that the counter lists, or `only` one. A shard that fails is logged and
        doesn't stop the others.

        With `since_ms` it reads from there, if that is before a shard's position, and as many pages
        as there are; this never moves a position back. Raises TermOutdated.
        """
        result = GapResult()
        try:
            listed = self.interface.shards()
        except InterfaceFailed as error:
            _failed(result, SHARD_LIST, error)
            return result
        reads: list[_ShardRead] = []
        for shard in sorted(listed.shards) if only is None else [only]:
            with _failing(result, shard):
                read = self._read(shard, self._start_ms(shard, since_ms, listed.now_ms), result, None if since_ms is not None else PAGES_MAX)
                if read.deferred.pending:
                    reads.append(read)
                else:
                    self._finish(read, result)
        for read in reads:
            with _failing(result, read.shard):
                self._finish(read, result)
        return result

    def _read(self, shard: int, start_ms: int, result: GapResult, pages_max: int | None) -> _ShardRead:
        read = _ShardRead(shard, DeferredBatches(self.intake))
        position: Position | None = Position(start_ms, 0)
        for pages in itertools.count():
            if position is None:
                break
            if pages == pages_max:
                read.read_to_ms = position.ms
                log.warning("gap pass broken off", shard=shard, pages=pages, read_to_ms=position.ms, fix="nothing: the next pass goes on from there")
                break
            page = self.interface.page(shard, position.ms, position.id, self.page_rows)
            read.now_ms = page.now_ms if read.now_ms is None else read.now_ms
            ingested = read.deferred.ingest([self._item(shard, row) for row in page.rows])
            result.rows += len(page.rows)
            if ingested is not None:
                self._count(read, ingested, result)
            position = next_position(page, position)
        return read

    def _count(self, read: _ShardRead, ingested: IngestResult, result: GapResult) -> None:
        """Counts at once, page by page: what a pass brought remains counted if it fails later."""
        result.ingested.add(ingested)
        if ingested.accepted:
            read.found += ingested.accepted
            self._write(_COUNT, [read.shard, ingested.accepted])

    def _finish(self, read: _ShardRead, result: GapResult) -> None:
        """Ingests the deferred batches, then moves the position. If the first fails the position
        stays, and the next pass begins where this one did.
        """
        for ingested in read.deferred.retry():
            self._count(read, ingested, result)
        skew_ms = int(settings.CLOCK_SKEW_SECONDS_MAX * 1000)
        now_ms = read.now_ms or 0
        if read.read_to_ms is not None:
            now_ms = min(now_ms, read.read_to_ms + self.overlap_ms)
        self._write(_MOVE, {"shard": read.shard, "now_ms": now_ms, "overlap_ms": self.overlap_ms, "skew_ms": skew_ms})
        if read.found:
            log.info("orders that only the gap pass found", shard=read.shard, orders=read.found)

    def _write(self, sql: str, values: Sequence[int] | Mapping[str, int]) -> None:
        with fenced(self.fence), connection.cursor() as cursor:
            cursor.execute(sql, values)

    def _start_ms(self, shard: int, since_ms: int | None, now_ms: int) -> int:
        """Where to begin: the shard's position, or earlier, so that the overlap is read in any
        case: a clock that was ahead may have moved the position.
        """
        position_ms = Watermark.objects.filter(shard=shard).values_list("scanned_through_ms", flat=True).first() or 0
        if position_ms > now_ms:
            alarm(POSITION_AHEAD, "a position lies ahead of the counter's clock", shard=shard, ahead_ms=position_ms - now_ms, fix=POSITION_FIX)
        start_ms = min(position_ms, now_ms - self.overlap_ms)
        return max(start_ms if since_ms is None else min(start_ms, since_ms), self.rules.since_ms, 0)

    def _item(self, shard: int, row: Mapping[str, Any]) -> Item:
        return read_row(row, interface_origin(GAP_PREFIX, shard, row), self.rules)


def interface_origin(prefix: str, shard: int, row: Mapping[str, Any]) -> Origin:
    """The origin of a row of the counter's interface: the table's prefix and the shard as the
    topic, the row's id as the offset.
    """
    return Origin(f"{prefix}{shard}", shard, _offset(row.get("id")), row)


def _offset(row_id: object) -> int:
    text = row_id if isinstance(row_id, str) else ""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(OFFSET_MAX)) else -1
    return number if number <= OFFSET_MAX else -1


@contextmanager
def _failing(result: GapResult, shard: int) -> Iterator[None]:
    """Records a shard's failure in the result; the other shards are read all the same."""
    try:
        yield
    except (InterfaceFailed, IntakeFault, DatabaseError) as error:
        drop_broken_connection()
        if isinstance(error, IntakeFault):
            faults.raise_alarm(error)
        _failed(result, str(shard), error)
    except TermOutdated:
        raise
    except Exception as error:  # whatever it is, it concerns this shard's answers alone
        drop_broken_connection()
        log.exception("internal error while reading a shard", shard=shard)
        alarm(SHARD_FAILED, "an internal error keeps the gap pass from reading a shard", shard=shard, error=f"{type(error).__name__}: {error}")
        _failed(result, str(shard), error)


def _failed(result: GapResult, shard: str, error: Exception) -> None:
    result.failed[shard] = storable(str(error))
    log.warning("gap pass failed", shard=shard, error=str(error).strip(), fix="nothing: the next pass begins where this one did")
