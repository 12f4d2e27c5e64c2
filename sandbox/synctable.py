"""The counter's sync-order table: where an order's row gets its place, and the log that each
statement on it leaves.
"""

import zlib
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from sandbox import binlog
from sandbox.proof import Proof, no_proof
from sandbox.storage import Change, Storage, SyncOrderRow

SHARDS = (0, 1, 2, 3)
TABLE_CHANGE_EVERY = 500  # one row in so many is followed by a change of the table itself
PAGE_ROWS_MAX = 1000


class Place(NamedTuple):
    """A new row's shard, its sequence there, and its time: later than, or equal to, that of the row
    before it in the shard.
    """

    shard: int
    sequence: int
    created_ms: int

    @property
    def digits(self) -> str:
        """Unique over all shards and sorted by time: what order and contract ids are made of."""
        return f"{self.created_ms:013d}{self.shard}{self.sequence % 100_000:05d}"


def shard_of(user_id: str) -> int:
    return zlib.crc32(user_id.encode()) % len(SHARDS)


class SyncTable:
    """Writes inside the caller's transaction; `committed()` is called after it, to wake the
    publisher.
    """

    def __init__(self, storage: Storage, committed: Callable[[], None], proof: Proof = no_proof) -> None:
        self._storage = storage
        self.proof = proof
        self.committed = committed

    def create(self, at_ms: int) -> None:
        """The log of a new database begins with the table itself."""
        if not self._storage.has_changes():
            self._storage.log_change(Change("CREATE", None, None, binlog.CREATE_TABLE, at_ms))

    def next_place(self, user_id: str, now_ms: int) -> Place:
        shard = shard_of(user_id)
        sequence, newest_ms = self._storage.last_of_shard(shard)
        return Place(shard, sequence + 1, max(now_ms, newest_ms))

    def insert(self, row: SyncOrderRow) -> SyncOrderRow:
        return self._storage.insert_sync_order(row)

    def log_insert(self, rows: list[SyncOrderRow], at_ms: int) -> None:
        """Logs one INSERT statement; now and then somebody changes the table after it."""
        self._storage.log_change(Change("INSERT", rows, None, "", at_ms))
        if any(row.id % TABLE_CHANGE_EVERY == 0 for row in rows):
            sql = f"ALTER TABLE {binlog.DATABASE}.{binlog.TABLE} COMMENT 'orders for clearing, {rows[-1].id} so far'"
            self._storage.log_change(Change("ALTER", None, None, sql, at_ms))

    def set_status(self, row: SyncOrderRow, status: str, at_ms: int) -> None:
        self._storage.set_sync_status(row.id, status)
        self._storage.log_change(Change("UPDATE", [row._replace(status=status)], [{"status": row.status}], "", at_ms))

    def page(self, shard: int, after_ms: int, after_id: int, limit: int) -> list[dict[str, Any]]:
        return [as_json(row, self.proof) for row in self._storage.sync_orders_after(shard, after_ms, after_id, limit)]

    def counts(self, shard: int, from_ms: int, to_ms: int) -> list[dict[str, Any]]:
        return by_minute(self._storage.sync_order_counts(shard, from_ms, to_ms))


def by_minute(counts: Iterable[tuple[int, str, int]]) -> list[dict[str, Any]]:
    """(minute, kind, rows) as the interface gives them: minutes without rows are left out."""
    minutes: dict[int, dict[str, int]] = {}
    for minute_ms, kind, rows in counts:
        minutes.setdefault(minute_ms, {})[kind] = rows
    return [{"minute_ms": minute_ms, "kinds": kinds} for minute_ms, kinds in minutes.items()]


def full_scale(amount: str | None) -> str | None:
    """As a DECIMAL(36,18) column shows it."""
    return None if amount is None else f"{Decimal(amount):.18f}"


def as_json(row: SyncOrderRow, proof: Proof = no_proof) -> dict[str, Any]:
    """The row as the interface gives it."""
    return {
        "id": str(row.id),
        "order_id": row.order_id,
        "user_id": row.user_id,
        "shard": row.shard,
        "sequence": str(row.sequence),
        "kind": row.kind,
        "direction": row.direction,
        "asset": row.asset,
        "quantity": full_scale(row.quantity),
        "quoted_usdt": full_scale(row.quoted_usdt),
        "instrument": row.instrument,
        "contract_id": row.contract_id,
        "created_ms": row.created_ms,
        **proof(row),
    }
