"""Messages and rows as the counter's pipeline writes them, for the tests of intake."""

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from orders.intake.classify import Item, Origin, read_message
from orders.intake.mapping import Rules

MYSQL_TYPES = {
    "id": "BIGINT unsigned",
    "order_id": "VARCHAR(64)",
    "user_id": "BIGINT unsigned",
    "shard": "SMALLINT",
    "sequence": "BIGINT unsigned",
    "kind": "VARCHAR(20)",
    "direction": "ENUM('OPEN','CLOSE')",
    "asset": "CHAR(4)",
    "quantity": "DECIMAL(36,18)",
    "quoted_usdt": "DECIMAL(36,18)",
    "instrument": "VARCHAR(64)",
    "contract_id": "VARCHAR(64)",
    "status": "VARCHAR(16)",
    "created_at": "DATETIME(3)",
}
TOPIC = "counter.sync_order"
RULES = Rules(table="counter.sync_order", exchange_kinds=frozenset({"EXCHANGE"}), since_ms=1_700_000_000_000, scales={"USDT": 6, "BTC": 8, "ETH": 8})
CREATED_AT, CREATED_MS = "2026-01-02 03:04:05.678", 1_767_323_045_678

_offsets = itertools.count()


def row(order_id: str = "O1", **changes: str | None) -> dict[str, Any]:
    """A row as Canal prints it; a column given as "absent" is left out."""
    columns: dict[str, str | None] = {
        "id": "17",
        "order_id": order_id,
        "user_id": "1001",
        "shard": "2",
        "sequence": "55",
        "kind": "EXCHANGE",
        "direction": "1",
        "asset": "BTC",
        "quantity": "0.050000000000000000",
        "quoted_usdt": "3050.120000000000000000",
        "instrument": "BTC-20260327-60000-C",
        "contract_id": "C1",
        "status": "NEW",
        "created_at": CREATED_AT,
    }
    return {name: value for name, value in {**columns, **changes}.items() if value != "absent"}


def interface_row(order_id: str = "O1", **changes: Any) -> dict[str, Any]:
    """The same row as the counter's interface gives it."""
    columns = row(order_id)
    del columns["created_at"], columns["status"]
    return {**columns, "direction": "OPEN", "shard": 2, "created_ms": CREATED_MS, **changes}


def message(*rows: Mapping[str, Any], kind: str = "INSERT", **envelope: Any) -> bytes:
    """A flat message of Canal's."""
    return json.dumps(
        {
            "data": list(rows) or None,
            "database": "counter",
            "es": 1_767_323_045_000,
            "id": 3,
            "isDdl": False,
            "mysqlType": MYSQL_TYPES,
            "old": None,
            "pkNames": ["id"],
            "sql": "",
            "table": "sync_order",
            "ts": 1_767_323_045_900,
            "type": kind,
            **envelope,
        }
    ).encode()


def updated(new: Mapping[str, Any], **old: str | None) -> bytes:
    """An UPDATE message; `old` are the old values of the changed columns."""
    return message(new, kind="UPDATE", old=[old])


def origin(raw: bytes, *, partition: int = 0, offset: int | None = None) -> Origin:
    """A place of its own in the topic."""
    return Origin(TOPIC, partition, next(_offsets) if offset is None else offset, raw)


def read(*messages: bytes, rules: Rules = RULES) -> list[Item]:
    """The items of messages that lie one after another in the topic."""
    return list(itertools.chain.from_iterable(read_message(raw, origin(raw), rules).items for raw in messages))


def inserts(order_ids: Iterable[str]) -> list[Item]:
    """Items of valid new orders, each of a user of its own."""
    return read(*(message(row(order_id, user_id=order_id, contract_id=f"C-{order_id}")) for order_id in order_ids))
