"""All of the sandbox's SQL, behind one class: keys, effects, ledger, orders, and the log of the
sync-order table's changes.

SQLite in WAL mode with `synchronous=NORMAL`: what was committed survives a killed process. One
connection writes, under a lock, so that the event loop and the publisher's thread take turns;
whoever only reads much opens a `reader()` of its own and never holds up a writer, or a `snapshot()`
where several statements must agree.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sandbox.money import text

SCHEMA = Path(__file__).with_name("schema.sql")


class KeyRow(NamedTuple):
    """One idempotency key with what it was given and what it answers; `fraction` is a deferred
    exchange's partial execution.
    """

    counterparty: str
    key: str
    state: str
    request: bytes
    status: int
    response: bytes
    created_at_ms: int
    due_at_ms: int | None = None
    fraction: str | None = None


class Posting(NamedTuple):
    account: str
    asset: str
    amount: Decimal


class Contract(NamedTuple):
    contract_id: str
    user_id: str
    asset: str
    quantity: str
    state: str


class PlacedOrder(NamedTuple):
    """A row of the counter's own order table."""

    order_id: str
    user_id: str
    shard: int
    sequence: int
    direction: str
    asset: str
    quantity: str
    quoted_usdt: str
    contract_id: str
    created_ms: int


class SyncOrderRow(NamedTuple):
    """A row of the sync-order table, its columns in the table's order."""

    id: int
    order_id: str
    user_id: str
    shard: int
    sequence: int
    kind: str
    direction: str | None
    asset: str | None
    quantity: str | None
    quoted_usdt: str | None
    instrument: str | None
    contract_id: str | None
    status: str
    created_ms: int


class Change(NamedTuple):
    """One statement on the sync-order table: `rows` after it, `old` the columns that an UPDATE
    changed; DDL has neither.
    """

    type: str
    rows: list[SyncOrderRow] | None
    old: list[dict[str, Any]] | None
    sql: str
    at_ms: int
    position: int = 0


_SELECT_KEY = "SELECT counterparty, key, state, request, status, response, created_at_ms, due_at_ms, fraction FROM idempotency_key"
_ORDER_COLUMNS = "order_id, user_id, shard, sequence, direction, asset, quantity, quoted_usdt, contract_id, created_ms"
_SELECT_ORDER = f"SELECT {_ORDER_COLUMNS} FROM placed_order WHERE order_id = ?"  # noqa: S608 of constants
_MINUTE = "created_ms / 60000 * 60000"
_IN_WINDOW = "WHERE shard = ? AND created_ms >= ? AND created_ms < ?"
_SELECT_SYNC = (
    "SELECT id, order_id, user_id, shard, sequence, kind, direction, asset, quantity, quoted_usdt, instrument, contract_id, status, created_ms"
    " FROM sync_order"
)
_UPSERT_BALANCE = "INSERT INTO balance VALUES (?, ?, ?) ON CONFLICT (account, asset) DO UPDATE SET amount = excluded.amount"
_ROWS = msgspec.json.Decoder(list[SyncOrderRow])


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    mode = "ro" if read_only else "rwc"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=5)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")  # pages: rarer syncs, each a pause of the event loop
    return connection


class Storage:
    """The sandbox's database; every writing method is called inside `transaction()`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.RLock()
        self._connection = _connect(path)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.executescript(SCHEMA.read_text(encoding="utf-8"))

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; an exception rolls back."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def reader(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection with rows as mappings, for long reads in another thread."""
        connection = _connect(self._path, read_only=True)
        connection.row_factory = sqlite3.Row
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A `reader()` whose statements all see the database as of the first one, whatever is
        written meanwhile.
        """
        with self.reader() as connection:
            connection.execute("BEGIN")
            yield connection

    def _one(self, sql: str, *arguments: Any) -> Any:
        return self._connection.execute(sql, arguments).fetchone()

    def _run(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        return self._connection.execute(sql, arguments)

    # --- Idempotency keys and effects -------------------------------------------------------------
    def find_key(self, counterparty: str, key: str) -> KeyRow | None:
        row = self._one(f"{_SELECT_KEY} WHERE counterparty = ? AND key = ?", counterparty, key)
        return KeyRow(*row) if row else None

    def keep_key(self, row: KeyRow) -> None:
        """Writes a new key, or the outcome of one that was in progress."""
        self._run("INSERT OR REPLACE INTO idempotency_key VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *row)

    def keys_in_progress(self) -> list[KeyRow]:
        rows = self._run(f"{_SELECT_KEY} WHERE state = 'in_progress' ORDER BY due_at_ms")
        return [KeyRow(*row) for row in rows]

    def purge_keys(self, before_ms: int) -> int:
        return self._run("DELETE FROM idempotency_key WHERE created_at_ms < ? AND state <> 'in_progress'", before_ms).rowcount

    def add_effect(self, counterparty: str, operation: str, key: str, order_id: str, at_ms: int, request: bytes, result: bytes) -> None:
        self._run(
            "INSERT INTO effect (counterparty, operation, key, order_id, applied_at_ms, request, result) VALUES (?, ?, ?, ?, ?, ?, ?)",
            *(counterparty, operation, key, order_id, at_ms, request, result),
        )

    # --- Ledger -----------------------------------------------------------------------------------
    def balance(self, account: str, asset: str) -> Decimal | None:
        """The account's balance, or None for an account that was never posted to."""
        row = self._one("SELECT amount FROM balance WHERE account = ? AND asset = ?", account, asset)
        return Decimal(row[0]) if row else None

    def post(self, postings: Sequence[Posting], *, order_id: str | None, key: str | None, at_ms: int) -> None:
        """Writes the postings and moves the balances; the caller has checked that they sum to zero
        (`ledger.book`).
        """
        for account, asset, amount in postings:
            balance = (self.balance(account, asset) or Decimal(0)) + amount
            self._run(_UPSERT_BALANCE, account, asset, text(balance))
            self._run(
                "INSERT INTO posting (account, asset, amount, order_id, key, at_ms) VALUES (?, ?, ?, ?, ?, ?)",
                *(account, asset, text(amount), order_id, key, at_ms),
            )

    # --- The counter's tables ---------------------------------------------------------------------
    def contract(self, contract_id: str) -> Contract | None:
        row = self._one("SELECT contract_id, user_id, asset, quantity, state FROM contract WHERE contract_id = ?", contract_id)
        return Contract(*row) if row else None

    def oldest_open_contract(self, user_id: str, asset: str) -> Contract | None:
        row = self._one(
            "SELECT contract_id, user_id, asset, quantity, state FROM contract WHERE user_id = ? AND asset = ? AND state = 'OPEN'"
            " ORDER BY opened_at_ms, contract_id LIMIT 1",
            *(user_id, asset),
        )
        return Contract(*row) if row else None

    def open_contract(self, contract: Contract, at_ms: int) -> None:
        self._run("INSERT INTO contract VALUES (?, ?, ?, ?, ?, ?)", *contract, at_ms)

    def close_contract(self, contract_id: str) -> None:
        self._run("UPDATE contract SET state = 'CLOSED' WHERE contract_id = ?", contract_id)

    def last_of_shard(self, shard: int) -> tuple[int, int]:
        """Sequence and creation time of the shard's newest row, of either table; zeros for an empty
        shard.
        """
        tables = ("sync_order", "placed_order")
        sql = "SELECT sequence, created_ms FROM {} WHERE shard = ? ORDER BY sequence DESC LIMIT 1"
        newest = [self._one(sql.format(table), shard) for table in tables]
        return max(((row[0], row[1]) for row in newest if row), default=(0, 0))

    def insert_order(self, order: PlacedOrder) -> None:
        self._run(
            "INSERT INTO placed_order (order_id, user_id, shard, sequence, direction, asset, quantity, quoted_usdt, contract_id, created_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *order,
        )

    def order(self, order_id: str) -> PlacedOrder | None:
        row = self._one(_SELECT_ORDER, order_id)
        return PlacedOrder(*row) if row else None

    def insert_sync_order(self, row: SyncOrderRow) -> SyncOrderRow:
        """Writes the row under the next id and gives it back with that id."""
        cursor = self._run(
            "INSERT INTO sync_order (order_id, user_id, shard, sequence, kind, direction, asset, quantity, quoted_usdt, instrument, contract_id,"
            " status, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *row[1:],
        )
        return row._replace(id=cursor.lastrowid or 0)

    def sync_order(self, order_id: str) -> SyncOrderRow | None:
        row = self._one(f"{_SELECT_SYNC} WHERE order_id = ?", order_id)
        return SyncOrderRow(*row) if row else None

    def set_sync_status(self, row_id: int, status: str) -> None:
        self._run("UPDATE sync_order SET status = ? WHERE id = ?", status, row_id)

    def sync_orders_after(self, shard: int, after_ms: int, after_id: int, limit: int) -> list[SyncOrderRow]:
        """The shard's rows with (created_ms, id) beyond the position, in that order."""
        rows = self._run(
            f"{_SELECT_SYNC} WHERE shard = ? AND (created_ms, id) > (?, ?) ORDER BY created_ms, id LIMIT ?", shard, after_ms, after_id, limit
        )
        return [SyncOrderRow(*row) for row in rows]

    def orders_after(self, shard: int, after_ms: int, after_id: int, limit: int) -> list[tuple[int, PlacedOrder]]:
        """The shard's rows of the order table, each with its id, beyond the position."""
        rows = self._run(
            f"SELECT id, {_ORDER_COLUMNS} FROM placed_order WHERE shard = ? AND (created_ms, id) > (?, ?) ORDER BY created_ms, id LIMIT ?",  # noqa: S608 of constants
            *(shard, after_ms, after_id, limit),
        )
        return [(row[0], PlacedOrder(*row[1:])) for row in rows]

    def sync_order_counts(self, shard: int, from_ms: int, to_ms: int) -> list[tuple[int, str, int]]:
        """(minute's first ms, kind, rows) of the shard's rows from `from_ms` up to, and without,
        `to_ms`, in order.
        """
        sql = f"SELECT {_MINUTE}, kind, count(*) FROM sync_order {_IN_WINDOW} GROUP BY 1, 2 ORDER BY 1, 2"  # noqa: S608 of constants
        return list(self._run(sql, shard, from_ms, to_ms))

    def order_counts(self, shard: int, from_ms: int, to_ms: int) -> list[tuple[int, str, int]]:
        """The same of the order table, where all are exchange orders."""
        sql = f"SELECT {_MINUTE}, 'EXCHANGE', count(*) FROM placed_order {_IN_WINDOW} GROUP BY 1 ORDER BY 1"  # noqa: S608 of constants
        return list(self._run(sql, shard, from_ms, to_ms))

    # --- The log of changes, and how far it was published -----------------------------------------
    def log_change(self, change: Change) -> None:
        rows = None if change.rows is None else msgspec.json.encode(change.rows).decode()
        old = None if change.old is None else msgspec.json.encode(change.old).decode()
        self._run("INSERT INTO change (type, rows, old, sql, at_ms) VALUES (?, ?, ?, ?, ?)", change.type, rows, old, change.sql, change.at_ms)

    def has_changes(self) -> bool:
        return self._one("SELECT seq FROM sqlite_sequence WHERE name = 'change'") is not None

    def published_through(self) -> int:
        with self._lock:
            return int(self._one("SELECT position FROM publisher")[0])

    def set_published_through(self, position: int) -> None:
        self._run("UPDATE publisher SET position = ?", position)

    def purge_changes(self, before_ms: int) -> int:
        return self._run("DELETE FROM change WHERE at_ms < ? AND position <= (SELECT position FROM publisher)", before_ms).rowcount


def changes_after(connection: sqlite3.Connection, position: int, limit: int) -> list[Change]:
    """The log's next statements, read on a `reader()`."""
    found = connection.execute(
        "SELECT type, rows, old, sql, at_ms, position FROM change WHERE position > ? ORDER BY position LIMIT ?", (position, limit)
    )
    return [_change(row) for row in found]


def _change(row: sqlite3.Row) -> Change:
    rows = None if row["rows"] is None else _ROWS.decode(row["rows"])
    old = None if row["old"] is None else msgspec.json.decode(row["old"])
    return Change(row["type"], rows, old, row["sql"], row["at_ms"], row["position"])
