"""Change messages of the counter's database, as rows. Pure: bytes in, `RowChange`s out, or `UnreadableMessage`.

Canal's flat JSON, as measured of Canal 1.1: one message carries many rows of one table; every value is a string or null (numbers of other
senders are taken by their text, so that no amount becomes a float); `old` lists changed columns, and sometimes unchanged ones, so that the
old row is the new one with `old` laid over it; DDL has no rows; `es` has one-second precision; `id` begins again when Canal restarts.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from orders.mysqltypes import Converter, Unconvertible, Value, converter

Row = dict[str, Value]
Operation = Literal["insert", "update", "delete", "ddl"]

CANAL_FLAT: Final = "canal_flat"
SHOWN_CHARACTERS_MAX: Final = 80
EXPANSION_MAX: Final = 8  # how many times its own size a message's SET labels may become; masks are short and labels may be long
EXPANSION_ALLOWANCE: Final = 65_536
TIME_DIGITS_MAX: Final = 15

ROW_TYPES: Final[Mapping[str, Operation]] = {"INSERT": "insert", "INIT": "insert", "UPDATE": "update", "DELETE": "delete"}
DDL_TYPES: Final = frozenset({"CREATE", "ALTER", "ERASE", "TRUNCATE", "RENAME", "CINDEX", "DINDEX"})
ROWLESS_TYPES: Final = frozenset({"QUERY", "GTID", "XACOMMIT", "XAROLLBACK", "MHEARTBEAT", "TRANSACTIONBEGIN", "TRANSACTIONEND"})


class UnreadableMessage(ValueError):  # noqa: N818 - named by what it tells
    """The message can't be read: of which format, where in it, and what stood there, shortened."""

    def __init__(self, source_format: str, field: str, problem: str, value: object = None) -> None:
        self.source_format = source_format
        self.field = field
        self.problem = problem
        self.value = shortened(value)
        super().__init__(f"{source_format}: {field}: {problem}" + (f", found {self.value}" if value is not None else ""))


class RowChange(msgspec.Struct, frozen=True, gc=False):
    """One row's change. In `before` and `after` None is null and absent is absent; `ddl` has neither. `source_time`: ms since the epoch."""

    source_format: str
    database: str
    table: str
    operation: Operation
    before: Row | None
    after: Row | None
    primary_key: tuple[str, ...]
    source_time: int | None


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
_anything: Final = msgspec.json.Decoder(dict[str, Any], float_hook=str)


def decode(raw: bytes | None) -> list[RowChange]:
    """The changes that a message carries, in its order; none for a tombstone and for messages about no row. Raises UnreadableMessage alone."""
    if raw is None:
        return []
    flat = _read(raw)
    if flat.is_ddl or flat.kind in DDL_TYPES:
        return [_change(flat, "ddl", None, None, ())]
    operation = ROW_TYPES.get(flat.kind)
    if flat.data is None or operation is None:
        _check_rowless(flat, operation)
        return []
    return _rows(flat, flat.data, operation, EXPANSION_MAX * len(raw) + EXPANSION_ALLOWANCE)


def shortened(value: object) -> str:
    """The value as a short text for people; never raises."""
    text = value if isinstance(value, str) else f"{value!r}" if not isinstance(value, int | list | dict) else f"a {type(value).__name__}"
    return repr(text[:SHOWN_CHARACTERS_MAX]) + ("…" if len(text) > SHOWN_CHARACTERS_MAX else "")


def _read(raw: bytes) -> _Flat:
    try:
        return _as_canal_sends.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _read_loosely(raw)


def _read_loosely(raw: bytes) -> _Flat:
    """Reads what differs from Canal's own typing but still says clearly what it means: numbers for strings, a time as text."""
    try:
        found = _anything.decode(raw)
        return msgspec.convert(_texts(found), _Flat)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise UnreadableMessage(CANAL_FLAT, _place(str(error)), str(error)) from None
    except (ValueError, RecursionError) as error:
        raise UnreadableMessage("json", "message", type(error).__name__, raw[:SHOWN_CHARACTERS_MAX]) from None


def _place(complaint: str) -> str:
    """Where it went wrong, as msgspec names it at the end: "… - at `$.data[0][...]`"."""
    _, at, place = complaint.rpartition(" - at `$")
    return place.strip("`.") or "message" if at else "message"


def _texts(found: dict[str, Any]) -> dict[str, Any]:
    rows = {name: [_row_texts(row) for row in found[name]] for name in ("data", "old") if isinstance(found.get(name), list)}
    return {**found, **rows, "es": _time(found.get("es"))}


def _row_texts(row: object) -> object:
    return {name: _text(value) for name, value in row.items()} if isinstance(row, dict) else row


def _text(value: object) -> object:
    """A number by its text, a boolean as MySQL has it; anything else is judged by who reads it."""
    if isinstance(value, bool):
        return str(int(value))
    return str(value) if isinstance(value, int) else value


def _time(value: object) -> int | None:
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= TIME_DIGITS_MAX else None


def _check_rowless(flat: _Flat, operation: Operation | None) -> None:
    """A row event without rows is empty, unless it carries a statement: then rows did change and nobody tells us which."""
    if operation is not None and flat.sql:
        raise UnreadableMessage(CANAL_FLAT, "data", "a statement instead of its rows (the database needs binlog_format=ROW)", flat.sql)
    if operation is None and flat.kind not in ROWLESS_TYPES:
        raise UnreadableMessage(CANAL_FLAT, "type", "an unknown type", flat.kind)


def _change(flat: _Flat, operation: Operation, before: Row | None, after: Row | None, key: tuple[str, ...]) -> RowChange:
    return RowChange(CANAL_FLAT, flat.database or "", flat.table or "", operation, before, after, key, flat.es)


def _rows(flat: _Flat, data: list[dict[str, str | None]], operation: Operation, room: int) -> list[RowChange]:
    convert = _Conversion(flat.mysql_type or {}, room)
    key = tuple(flat.pk_names or ())
    rows = [convert.row(row, "data", number) for number, row in enumerate(data)]
    if operation == "update":
        return [_change(flat, "update", before, after, key) for before, after in zip(_before(flat, rows, convert), rows, strict=True)]
    if operation == "delete":
        return [_change(flat, "delete", row, None, key) for row in rows]
    return [_change(flat, operation, None, row, key) for row in rows]


def _before(flat: _Flat, rows: list[Row], convert: "_Conversion") -> Iterator[Row | None]:
    """The old row of each new one; None where the source says nothing of it."""
    old = flat.old or []
    if len(old) > len(rows):
        raise UnreadableMessage(CANAL_FLAT, "old", f"{len(old)} old rows beside {len(rows)} new ones")
    for number, row in enumerate(rows):
        changed = old[number] if number < len(old) else None
        yield None if changed is None else {**row, **convert.row(changed, "old", number)}


class _Conversion:
    """The converters of one message's columns, and how much longer than their text its values may yet become."""

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

    def row(self, row: dict[str, str | None], part: str, number: int) -> Row:
        """The row with its values converted, in place."""
        converted: Row = row  # type: ignore[assignment]
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
