"""Maxwell's JSON. Pure.

One row a message; types in lower case; numbers are numbers; ENUM as its label, SET as a list of
labels. `old` holds only the changed columns: the old row is the new one with `old` laid over it.
`ts` is in seconds for rows and in ms for DDL. Key columns are named on request only. Binary columns
come in base64 and aren't marked: they stay text.
"""

from collections.abc import Mapping
from typing import Any, Final

from orders.decoding import fields
from orders.decoding.changes import Operation, RowChange, RowValues, UnreadableMessage
from orders.decoding.mysql_types import Value
from orders.decoding.values import value_text

MAXWELL: Final = "maxwell"
SECONDS_MAX: Final = 10**11  # the year 5138 in seconds, 1973 in ms

ROW_TYPES: Final[Mapping[str, Operation]] = {"insert": "insert", "bootstrap-insert": "insert", "update": "update", "delete": "delete"}
DDL_TYPES: Final = frozenset({"table-create", "table-alter", "table-drop", "database-create", "database-alter", "database-drop"})
ROWLESS_TYPES: Final = frozenset({"bootstrap-start", "bootstrap-complete", "heartbeat"})


def from_json(found: dict[str, Any]) -> list[RowChange]:
    """The changes of a message. Raises UnreadableMessage."""
    kind = fields.text(MAXWELL, found, "type")
    if kind in DDL_TYPES:
        return [_change(found, "ddl", None, None)]
    if kind in ROWLESS_TYPES:
        return []
    operation = ROW_TYPES.get(kind)
    if operation is None:
        raise UnreadableMessage(MAXWELL, "type", "an unknown type", kind)
    return [_change(found, operation, *_rows(found, operation))]


def _change(found: Mapping[str, Any], operation: Operation, before: RowValues | None, after: RowValues | None) -> RowChange:
    database, table = fields.text(MAXWELL, found, "database"), fields.text(MAXWELL, found, "table")
    return RowChange(MAXWELL, database, table, operation, before, after, _key(found), _time(found))


def _key(found: Mapping[str, Any]) -> tuple[str, ...]:
    names = found.get("primary_key_columns") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnreadableMessage(MAXWELL, "primary_key_columns", "no list of names", names)
    return tuple(names)


def _time(found: Mapping[str, Any]) -> int | None:
    stated = fields.number(found.get("ts"))
    return stated * 1000 if stated is not None and stated < SECONDS_MAX else stated


def _rows(found: Mapping[str, Any], operation: Operation) -> tuple[RowValues | None, RowValues | None]:
    """Before and after."""
    row = fields.row(MAXWELL, found.get("data"), "data", {}, _value)
    if operation == "delete":
        return row, None
    if operation == "insert" or found.get("old") is None:
        return None, row
    return {**row, **_old(found["old"])}, row


def _old(old: object) -> RowValues:
    return fields.row(MAXWELL, old, "old", {}, _value) if old != {} else {}


def _value(value: object) -> Value:
    """A list of texts is a SET's labels, as MySQL writes them."""
    if isinstance(value, list) and all(isinstance(label, str) for label in value):
        return ",".join(value)
    return value_text(value)
