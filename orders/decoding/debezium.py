"""Debezium's JSON, with or without the envelope of `schema` and `payload`. Pure.

A schema gives the type of a value: DECIMAL in base64, days and milliseconds since the epoch, base64
of bytes; without a schema values stay as they are. A change of a key comes as a delete and a
create, and a delete is followed by a tombstone. Key columns aren't named in the value. Besides row
changes there are begins and ends of transactions, heartbeats, logged messages (none of them about a
row), truncations, and schema changes.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from orders.decoding import fields
from orders.decoding.changes import Operation, RowChange, RowValues, UnreadableMessage, error_location
from orders.decoding.connect import Column, converters
from orders.decoding.values import exact

DEBEZIUM: Final = "debezium"
ENVELOPE_MARK: Final = b'"payload"'
SCHEMA_BYTES_CACHED_MAX: Final = 50_000  # longer ones are parsed each time: the cache must not hold a hostile message's megabytes

OPERATIONS: Final[Mapping[str, Operation]] = {"c": "insert", "r": "insert", "u": "update", "d": "delete", "t": "ddl"}
LOGGED_MESSAGE: Final = "m"
HEARTBEAT_FIELDS: Final = frozenset({"ts_ms", "ts_us", "ts_ns"})

_NO_SCHEMA: Final = msgspec.Raw(b"null")


class _Envelope(msgspec.Struct, gc=False):
    payload: dict[str, Any] | None
    schema: msgspec.Raw = _NO_SCHEMA


_envelope: Final = msgspec.json.Decoder(_Envelope, float_hook=exact)
_schema: Final = msgspec.json.Decoder(Column | None)


def from_bytes(raw: bytes) -> list[RowChange] | None:
    """The changes of an enveloped message; None where there is no envelope. Raises
    UnreadableMessage.
    """
    try:
        envelope = _envelope.decode(raw)
    except (ValueError, RecursionError):
        return None
    if envelope.payload is None:
        return []
    schema = bytes(envelope.schema)
    read = _converters if len(schema) <= SCHEMA_BYTES_CACHED_MAX else _converters.__wrapped__
    return _changes(envelope.payload, read(schema))


def from_json(found: dict[str, Any]) -> list[RowChange]:
    """The changes of a message without an envelope. Raises UnreadableMessage."""
    return _changes(found, {})


@lru_cache(maxsize=64)
def _converters(schema: bytes) -> Mapping[str, fields.Convert]:
    """The converters of the row's columns, by name."""
    try:
        envelope = _schema.decode(schema)
    except (ValueError, RecursionError) as error:
        problem = str(error)
        raise UnreadableMessage(DEBEZIUM, f"schema.{error_location(problem)}", problem or "nested too deep") from None
    row = next((column for column in (envelope.fields if envelope else None) or () if column.field in {"after", "before"}), None)
    return converters((row.fields if row else None) or ())


def _changes(payload: Mapping[str, Any], columns: Mapping[str, fields.Convert]) -> list[RowChange]:
    if "op" in payload:
        return _of_row(payload, columns)
    if "ddl" in payload and "databaseName" in payload:
        return [_change(payload, "ddl", None, None, database=fields.text(DEBEZIUM, payload, "databaseName"))]
    if payload.get("status") in ("BEGIN", "END") or (payload and payload.keys() <= HEARTBEAT_FIELDS):
        return []
    raise UnreadableMessage("json", "message", "of no known format, its fields", ", ".join(payload))


def _of_row(payload: Mapping[str, Any], columns: Mapping[str, fields.Convert]) -> list[RowChange]:
    stated = fields.text(DEBEZIUM, payload, "op")
    if stated == LOGGED_MESSAGE:
        return []
    operation = OPERATIONS.get(stated)
    if operation is None:
        raise UnreadableMessage(DEBEZIUM, "op", "an unknown operation", stated)
    if operation == "ddl":
        return [_change(payload, operation, None, None)]
    before, after = (_row(payload, part, columns) for part in ("before", "after"))
    required = "before" if operation == "delete" else "after"
    if payload.get(required) is None:
        raise UnreadableMessage(DEBEZIUM, required, "no row")
    return [_change(payload, operation, None if operation == "insert" else before, None if operation == "delete" else after)]


def _row(payload: Mapping[str, Any], part: str, columns: Mapping[str, fields.Convert]) -> RowValues | None:
    return None if payload.get(part) is None else fields.row(DEBEZIUM, payload[part], part, columns)


def _change(payload: Mapping[str, Any], operation: Operation, before: RowValues | None, after: RowValues | None, database: str = "") -> RowChange:
    source = payload.get("source")
    if not isinstance(source, dict):
        raise UnreadableMessage(DEBEZIUM, "source", "no object", source)
    # Rows of a snapshot had no time of their own in old versions: 0.
    source_time = fields.number(source.get("ts_ms")) or fields.number(payload.get("ts_ms"))
    database = database or fields.text(DEBEZIUM, source, "db")
    return RowChange(DEBEZIUM, database, fields.text(DEBEZIUM, source, "table"), operation, before, after, (), source_time)
