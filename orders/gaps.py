"""Gap compensation: asks the counter itself for the orders that the binlog didn't bring (design, section 8).

Each shard is read from `scanned_through_ms` on, page by page, and goes through the same mapping and `ingest` as the consumer's rows. Only a
finished pass moves that position, and never past the counter's own clock at the pass's first query less the overlap: so rows that were
committed late, rows with equal milliseconds, rows with a time in the future and a pass that failed for long are all met again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from django.db import Error as DatabaseError
from django.db import connection

from base.db import drop_broken_connection
from base.fence import Fence, fenced, no_fence
from orders.arrivals import GAP_PREFIX, Item, Origin, read_row
from orders.ingest import IngestResult, IntakeFault
from orders.interface import InterfaceFailed, Page, Position, SyncOrderInterface
from orders.mapping import Rules
from orders.models import Watermark

log = structlog.get_logger(__name__)
Take = Callable[[Sequence[Item]], IngestResult]

SHARD_LIST = "list"  # among the failed shards: the counter didn't list them
OFFSET_MAX = 2**63 - 1  # of the quarantine's column; ids beyond it share the place -1

_MOVE = """
    INSERT INTO orders_watermark AS w (shard, newest_ms, scanned_through_ms, found_by_gap, scanned_at) VALUES (%s, 0, %s, 0, service_now())
    ON CONFLICT (shard) DO UPDATE SET scanned_through_ms = greatest(w.scanned_through_ms, EXCLUDED.scanned_through_ms),
        scanned_at = EXCLUDED.scanned_at
"""
_COUNT = """
    INSERT INTO orders_watermark AS w (shard, newest_ms, scanned_through_ms, found_by_gap) VALUES (%s, 0, 0, %s)
    ON CONFLICT (shard) DO UPDATE SET found_by_gap = w.found_by_gap + EXCLUDED.found_by_gap
"""


@dataclass(slots=True)
class GapResult:
    """What a pass found: rows read, what became of them, and the shards (or SHARD_LIST) that failed, with the reason."""

    rows: int = 0
    ingested: IngestResult = field(default_factory=IngestResult)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GapPass:
    """One pass over every shard. `take` takes rows in, as gap's; both it and what is noted here write under the fence."""

    interface: SyncOrderInterface
    take: Take
    rules: Rules
    overlap_ms: int
    page_rows: int
    fence: Fence = no_fence

    def run(self, only: int | None = None, since_ms: int | None = None) -> GapResult:
        """Reads every shard that the counter lists, or `only` one. A shard that fails is logged and doesn't stop the others.

        With `since_ms` it reads from there, if that lies before a shard's position; positions never move back by it. Raises TermOutdated.
        """
        result = GapResult()
        try:
            shards = self.interface.shards().shards
        except InterfaceFailed as error:
            _failed(result, SHARD_LIST, error)
            return result
        for shard in sorted(shards) if only is None else [only]:
            try:
                self._read(shard, self._start_ms(shard, since_ms), result)
            except (InterfaceFailed, IntakeFault, DatabaseError) as error:
                drop_broken_connection()
                _failed(result, str(shard), error)
        return result

    def _read(self, shard: int, start_ms: int, result: GapResult) -> None:
        position: Position | None = Position(start_ms, 0)
        found, first_now_ms = 0, None
        while position is not None:
            page = self.interface.page(shard, position.ms, position.id, self.page_rows)
            first_now_ms = page.now_ms if first_now_ms is None else first_now_ms
            taken = self.take([self._item(shard, row) for row in page.rows])
            if taken.accepted:
                found += taken.accepted
                self._note(_COUNT, shard, taken.accepted)
            result.rows += len(page.rows)
            result.ingested.add(taken)
            position = _following(page, position)
        if first_now_ms is not None:
            self._note(_MOVE, shard, max(first_now_ms - self.overlap_ms, 0))
        if found:
            log.info("orders that only the gap pass found", shard=shard, orders=found)

    def _note(self, sql: str, shard: int, value: int) -> None:
        """What was found is counted at once, page by page: a pass that fails later has found it all the same."""
        with fenced(self.fence), connection.cursor() as cursor:
            cursor.execute(sql, [shard, value])

    def _start_ms(self, shard: int, since_ms: int | None) -> int:
        known = Watermark.objects.filter(shard=shard).values_list("scanned_through_ms", flat=True).first() or 0
        return max(known if since_ms is None else min(known, since_ms), self.rules.since_ms, 0)

    def _item(self, shard: int, row: Mapping[str, Any]) -> Item:
        return read_row(row, interface_origin(GAP_PREFIX, shard, row), self.rules)


def interface_origin(prefix: str, shard: int, row: Mapping[str, Any]) -> Origin:
    """Where a row of the counter's interface came from: the table's prefix and the shard, and the row's id for an offset."""
    return Origin(f"{prefix}{shard}", shard, _offset(row.get("id")), row)


def _following(page: Page, position: Position) -> Position | None:
    """Where the next page begins. Raises InterfaceFailed for a counter that leads us in a circle."""
    following = page.following
    if following is not None and (following.ms, following.id) <= (position.ms, position.id):
        raise InterfaceFailed(f"the page after {position} is followed by {following}")
    return following


def _offset(row_id: object) -> int:
    text = row_id if isinstance(row_id, str) else ""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(OFFSET_MAX)) else -1
    return number if number <= OFFSET_MAX else -1


def _failed(result: GapResult, shard: str, error: Exception) -> None:
    result.failed[shard] = str(error)
    log.warning("gap pass failed", shard=shard, error=str(error).strip(), fix="nothing: the next pass begins where this one did")
