"""The counter's interface in memory, for passes that read it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from orders.backfill.counter_api import InterfaceFailed, Page, Position, Shards
from tests.orders.messages import RULES, interface_row

NOW = RULES.since_ms + 1_000_000
OVERLAP = 30_000


@dataclass
class Counter:
    """The counter's interface in memory: rows by (ms, id), pages of its own."""

    now_ms: int = NOW
    rows: dict[int, list[tuple[int, int, dict[str, Any]]]] = field(default_factory=lambda: {0: []})
    away: set[int] = field(default_factory=set)
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 10**9)))

    def commit(self, order_id: str, at_ms: int, shard: int = 0, **changes: Any) -> None:
        number = next(self._ids)
        columns = interface_row(order_id, user_id=order_id, id=str(number), shard=shard, created_ms=str(at_ms), **changes)
        self.rows.setdefault(shard, []).append((at_ms, number, columns))

    def shards(self) -> Shards:
        if not self.rows:
            raise InterfaceFailed("the counter is down")
        return Shards(tuple(self.rows), self.now_ms)

    def page(self, shard: int, after_ms: int, after_id: int, limit: int) -> Page:
        self.asked.append((shard, after_ms, after_id))
        if shard in self.away:
            raise InterfaceFailed("status 500")
        found = sorted((found for found in self.rows[shard] if found[:2] > (after_ms, after_id)), key=lambda found: found[:2])
        page = found[:limit]
        following = Position(*page[-1][:2]) if len(found) > limit else None
        return Page(self.now_ms, tuple(columns for *_, columns in page), following)
