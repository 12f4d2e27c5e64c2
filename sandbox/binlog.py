"""How Canal shows the sync-order table's changes: flat JSON messages. Pure.

As measured of Canal 1.1: every value a string or null, ENUM as its 1-based index, DECIMAL and
DATETIME(3) at full scale, `es` with one-second precision, `id` counting batches from 1 since the
start, several rows of a statement in one message up to a row event's 8 KB, DDL without rows.
"""

import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from sandbox.proof import Proof, no_proof
from sandbox.storage import Change, SyncOrderRow

DATABASE = "counter"
TABLE = "sync_order"
MESSAGE_ROWS_MAX = 38  # what fits a row event of 8 KB
DIRECTIONS = {"OPEN": "1", "CLOSE": "2"}
COLUMNS = {  # name → (mysqlType, JDBC type)
    "id": ("BIGINT unsigned", -5),
    "order_id": ("VARCHAR(64)", 12),
    "user_id": ("BIGINT unsigned", -5),
    "shard": ("SMALLINT", 5),
    "sequence": ("BIGINT unsigned", -5),
    "kind": ("VARCHAR(20)", 12),
    "direction": ("ENUM('OPEN','CLOSE')", 4),
    "asset": ("CHAR(4)", 1),
    "quantity": ("DECIMAL(36,18)", 3),
    "quoted_usdt": ("DECIMAL(36,18)", 3),
    "instrument": ("VARCHAR(64)", 12),
    "contract_id": ("VARCHAR(64)", 12),
    "status": ("VARCHAR(16)", 12),
    "created_at": ("DATETIME(3)", 93),
    "mac": ("CHAR(64)", 1),
    "mac_key_id": ("VARCHAR(64)", 12),
}
MYSQL_TYPES = {name: mysql for name, (mysql, _) in COLUMNS.items()}
SQL_TYPES = {name: jdbc for name, (_, jdbc) in COLUMNS.items()}
CREATE_TABLE = (
    f"CREATE TABLE {DATABASE}.{TABLE} (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, order_id VARCHAR(64) NOT NULL UNIQUE,"
    " user_id BIGINT UNSIGNED NOT NULL, shard SMALLINT NOT NULL, sequence BIGINT UNSIGNED NOT NULL, kind VARCHAR(20) NOT NULL,"
    " direction ENUM('OPEN','CLOSE'), asset CHAR(4), quantity DECIMAL(36,18), quoted_usdt DECIMAL(36,18), instrument VARCHAR(64),"
    " contract_id VARCHAR(64), status VARCHAR(16) NOT NULL, created_at DATETIME(3) NOT NULL,"
    " mac CHAR(64), mac_key_id VARCHAR(64), UNIQUE KEY (shard, sequence)) ENGINE=InnoDB"
)


class Message(NamedTuple):
    partition: int
    value: bytes


def messages(change: Change, *, batch_id: int, sent_at_ms: int, partitions: int, proof: Proof = no_proof) -> Iterator[Message]:
    """The statement's messages, in order; its rows go to their user's partition, DDL to partition
    0.
    """
    if change.rows is None:
        yield Message(0, _flat(change, None, None, batch_id, sent_at_ms))
        return
    for partition, indexes in _by_partition(change.rows, partitions).items():
        for start in range(0, len(indexes), MESSAGE_ROWS_MAX):
            part = indexes[start : start + MESSAGE_ROWS_MAX]
            data = [_columns(change.rows[index], proof) for index in part]
            old = None if change.old is None else [change.old[index] for index in part]
            yield Message(partition, _flat(change, data, old, batch_id, sent_at_ms))


def partition_of(user_id: str, partitions: int) -> int:
    return zlib.crc32(user_id.encode()) % partitions


def _by_partition(rows: list[SyncOrderRow], partitions: int) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(partition_of(row.user_id, partitions), []).append(index)
    return groups


def _flat(change: Change, data: list[dict[str, Any]] | None, old: list[dict[str, Any]] | None, batch_id: int, sent_at_ms: int) -> bytes:
    ddl = data is None
    return msgspec.json.encode(
        {
            "data": data,
            "database": DATABASE,
            "es": change.at_ms // 1000 * 1000,
            "gtid": "",
            "id": batch_id,
            "isDdl": ddl,
            "mysqlType": None if ddl else MYSQL_TYPES,
            "old": old,
            "pkNames": None if ddl else ["id"],
            "sql": change.sql,
            "sqlType": None if ddl else SQL_TYPES,
            "table": TABLE,
            "ts": sent_at_ms,
            "type": change.type,
        }
    )


def _columns(row: SyncOrderRow, proof: Proof) -> dict[str, str | None]:
    return {
        "id": str(row.id),
        "order_id": row.order_id,
        "user_id": row.user_id,
        "shard": str(row.shard),
        "sequence": str(row.sequence),
        "kind": row.kind,
        "direction": None if row.direction is None else DIRECTIONS[row.direction],
        "asset": row.asset,
        "quantity": _decimal(row.quantity),
        "quoted_usdt": _decimal(row.quoted_usdt),
        "instrument": row.instrument,
        "contract_id": row.contract_id,
        "status": row.status,
        "created_at": _datetime(row.created_ms),
        **proof(row),
    }


def _decimal(amount: str | None) -> str | None:
    return None if amount is None else f"{Decimal(amount):.18f}"


def _datetime(at_ms: int) -> str:
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{milliseconds:03d}"
