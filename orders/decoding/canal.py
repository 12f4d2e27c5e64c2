"""Canal's flat JSON. Pure.

Measured with Canal 1.1: one message carries many rows of one table. Every value is a string or null
(other senders' numbers are kept as text, so that no amount becomes a float). `old` lists changed
columns, and sometimes unchanged ones: the old row is the new one with `old` laid over it. DDL has
no rows. `es` has one-second precision. `id` begins again when Canal restarts.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from orders.decoding.changes import SHOWN_CHARACTERS_MAX, Operation, RowChange, RowValues, UnreadableMessage, error_location
from orders.decoding.mysql_types import Converter, Unconvertible, converter
from orders.decoding.values import number_text

CANAL_FLAT: Final = "canal_flat"
EXPANSION_MAX: Final = 8  # how many times its own size a message may grow by its SET labels: masks are short, labels may be long
EXPANSION_ALLOWANCE: Final = 65_536
TIME_DIGITS_MAX: Final = 15

ROW_TYPES: Final[Mapping[str, Operation]] = {"INSERT": "insert", "INIT": "insert", "UPDATE": "update", "DELETE": "delete"}
DDL_TYPES: Final = frozenset({"CREATE", "ALTER", "ERASE", "TRUNCATE", "RENAME", "CINDEX", "DINDEX"})
ROWLESS_TYPES: Final = frozenset({"QUERY", "GTID", "XACOMMIT", "XAROLLBACK", "MHEARTBEAT", "TRANSACTIONBEGIN", "TRANSACTIONEND"})


class _Flat(msgspec.Struct, gc=False, rename={"kind": "type", "mysql_type": "mysqlType", "is_ddl": "isDdl", "pk_names": "pkNames"}):
    kind: str
    data: list[dict[str, str | None]] | None = None
    old: list[dict[str, str | None] | None] | None = None
    mysql_type: dict[str, str | None] | None = None
    pk_names: list[str] | None = None
    database: str | None = None
    table: str | None = None
    is_ddl: bool | None = None
    es: int | None = None
    sql: str | None = None


_as_canal_sends: Final = msgspec.json.Decoder(_Flat)


def from_bytes(raw: bytes) -> list[RowChange] | None:
    """The changes of a message with Canal's own types; None where it has to be read by `from_json`.
    Raises UnreadableMessage.
    """
    try:
        flat = _as_canal_sends.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return None if flat.kind.islower() else _changes(flat, len(raw))  # lower case is Maxwell's


def from_json(found: dict[str, Any], size: int) -> list[RowChange]:
    """The changes of a message that is clear, but has other types than Canal's: numbers instead of
    strings, a time as text.

    `size` is the message's, in bytes. Raises UnreadableMessage.
    """
    try:
        flat = msgspec.convert(_texts(found), _Flat)
    except msgspec.ValidationError as error:
        raise UnreadableMessage(CANAL_FLAT, error_location(str(error)), str(error)) from None
    return _changes(flat, size)


def as_canal_flat(change: RowChange) -> bytes:
    """The change as a message of its own, which reads as this change."""
    row, old = (change.before, None) if change.operation == "delete" else (change.after, change.before)
    message = {
        "type": change.operation.upper(),
        "database": change.database,
        "table": change.table,
        "isDdl": change.operation == "ddl",
        "es": change.source_time,
        "pkNames": list(change.primary_key),
        "data": None if row is None else [_printed(row)],
        "old": None if old is None else [_printed(old)],
    }
    return json.dumps(message).encode()


def _printed(row: RowValues) -> dict[str, str | None]:
    """Bytes as Canal prints them."""
    return {name: value.decode("latin-1") if isinstance(value, bytes) else value for name, value in row.items()}


def check_rowless(source_format: str, kind: str, sql: str | None) -> None:
    """Checks an event without rows. A row event without rows changed nothing, unless it carries a
    statement: then rows changed, and the event doesn't say which. Raises UnreadableMessage.
    """
    if kind in ROW_TYPES and sql:
        raise UnreadableMessage(source_format, "data", "a statement instead of its rows (the database needs binlog_format=ROW)", sql)
    if kind not in ROW_TYPES and kind not in ROWLESS_TYPES:
        raise UnreadableMessage(source_format, "type", "an unknown type", kind)


def _changes(flat: _Flat, size: int) -> list[RowChange]:
    if flat.is_ddl or flat.kind in DDL_TYPES:
        return [_change(flat, "ddl", None, None, ())]
    operation = ROW_TYPES.get(flat.kind)
    if flat.data is None or operation is None:
        check_rowless(CANAL_FLAT, flat.kind, flat.sql)
        return []
    return _rows(flat, flat.data, operation, EXPANSION_MAX * size + EXPANSION_ALLOWANCE)


def _texts(found: dict[str, Any]) -> dict[str, Any]:
    """The message with its numbers as text; in place, so that a hostile message isn't kept
    twice.
    """
    for rows in (found.get("data"), found.get("old")):
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict):
                row.update({name: number_text(value) for name, value in row.items() if not isinstance(value, str)})
    return {**found, "es": _time(found.get("es"))}


def _time(value: object) -> int | None:
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= TIME_DIGITS_MAX else None


def _change(flat: _Flat, operation: Operation, before: RowValues | None, after: RowValues | None, key: tuple[str, ...]) -> RowChange:
    return RowChange(CANAL_FLAT, flat.database or "", flat.table or "", operation, before, after, key, flat.es)


def _rows(flat: _Flat, data: list[dict[str, str | None]], operation: Operation, room: int) -> list[RowChange]:
    if not all(data):
        raise UnreadableMessage(CANAL_FLAT, f"data[{data.index({})}]", "a row without columns")
    convert = _Conversion(flat.mysql_type or {}, room)
    key = tuple(flat.pk_names or ())
    rows = [convert.row(row, "data", number) for number, row in enumerate(data)]
    if operation == "update":
        return [_change(flat, "update", before, after, key) for before, after in zip(_before(flat, rows, convert), rows, strict=True)]
    if operation == "delete":
        return [_change(flat, "delete", row, None, key) for row in rows]
    return [_change(flat, operation, None, row, key) for row in rows]


def _before(flat: _Flat, rows: list[RowValues], convert: "_Conversion") -> Iterator[RowValues | None]:
    """The old row of each new one; None where the source doesn't state it."""
    old = flat.old or []
    if len(old) > len(rows):
        raise UnreadableMessage(CANAL_FLAT, "old", f"{len(old)} old rows beside {len(rows)} new ones")
    for number, row in enumerate(rows):
        changed = old[number] if number < len(old) else None
        yield None if changed is None else {**row, **convert.row(changed, "old", number)}


class _Conversion:
    """The converters of one message's columns, and by how many characters its values may still
    outgrow their text.
    """

    def __init__(self, types: Mapping[str, str | None], room: int) -> None:
        self._room = room
        self._converters = [(column, made) for column, text in types.items() if (made := self._converter(column, text))]
        self._done: dict[tuple[str, str], str | bytes] = {}

    @staticmethod
    def _converter(column: str, mysql_type: str | None) -> Converter | None:
        try:
            return converter(mysql_type) if mysql_type else None
        except Unconvertible as error:
            raise UnreadableMessage(CANAL_FLAT, f"mysqlType.{column[:SHOWN_CHARACTERS_MAX]}", str(error), mysql_type) from None

    def row(self, row: dict[str, str | None], part: str, number: int) -> RowValues:
        """The row with its values converted, in place."""
        converted: RowValues = row  # type: ignore[assignment]
        for column, convert in self._converters:
            text = row.get(column)
            if text is not None:
                try:
                    converted[column] = self._value(column, convert, text)
                except Unconvertible as error:
                    raise UnreadableMessage(CANAL_FLAT, f"{part}[{number}].{column[:SHOWN_CHARACTERS_MAX]}", str(error), text) from None
        return converted

    def _value(self, column: str, convert: Converter, text: str) -> str | bytes:
        if len(text) > SHOWN_CHARACTERS_MAX:
            return convert(text)
        known = self._done.get((column, text))
        if known is None:
            known = self._done[column, text] = convert(text)
            self._room -= len(known) - len(text)
            if self._room < 0:
                raise Unconvertible("labels that make the message many times larger")
        return known
