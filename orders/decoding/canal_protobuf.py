"""Canal's protobuf packets (flatMessage=false): Packet → Messages → Entry → RowChange, schema in
`canal.proto`. Pure.

Measured with Canal 1.1: a packet holds several transactions, or a part of one. On MariaDB a
transaction's end comes without its begin. There are entries without rows. Values are printed as in
the flat messages. Canal never sends compressed packets, but the protocol defines them.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from google.protobuf.message import DecodeError

from orders.decoding import canal_pb2 as pb
from orders.decoding.canal import DDL_TYPES, ROW_TYPES, check_rowless
from orders.decoding.changes import SHOWN_CHARACTERS_MAX, Operation, RowChange, RowValues, UnreadableMessage
from orders.decoding.mysql_types import Unconvertible, converter

CANAL_PROTOBUF: Final = "canal_protobuf"
FIRST_BYTES: Final = frozenset({b"\x08", b"\x10", b"\x18", b"\x2a"})  # tags of a packet's fields but compression, whose tag is a space in JSON
MESSAGES, HEARTBEAT = 7, 11  # types of packets
TRANSACTION_BEGIN, ROWS, TRANSACTION_END, ENTRY_HEARTBEAT, GTID_LOG = 1, 2, 3, 4, 5  # types of entries
UNCOMPRESSED: Final = frozenset({0, 1})
WINDOW_BITS: Final = {2: zlib.MAX_WBITS, 3: zlib.MAX_WBITS | 16}  # by compression: zlib, gzip
INFLATION_MAX: Final = 32  # rows shrink to a ninth, updates to half of that; a bomb grows a thousandfold
INFLATION_ALLOWANCE: Final = 1 << 20  # a few rows that are all alike shrink more

_Parsed = TypeVar("_Parsed")
_KINDS: Final = {number: name for name, number in pb.EventType.items()}


def decode(raw: bytes) -> list[RowChange]:
    """The changes of a packet, in its order. Raises UnreadableMessage."""
    packet = _parsed(pb.Packet.FromString, raw, "packet")
    if packet.type == HEARTBEAT:
        return []
    if packet.type != MESSAGES:
        raise _unreadable("packet.type", "not a packet of messages", str(packet.type))
    messages = _parsed(pb.Messages.FromString, _body(packet), "packet.body").messages
    changes: list[RowChange] = []
    for number, message in enumerate(messages):
        changes.extend(_entry(message, f"messages[{number}]"))
    return changes


def _unreadable(field: str, problem: str, value: object = None) -> UnreadableMessage:
    return UnreadableMessage(CANAL_PROTOBUF, field, problem, value)


def _parsed(parse: Callable[[bytes], _Parsed], raw: bytes, field: str) -> _Parsed:
    try:
        return parse(raw)
    except (DecodeError, ValueError) as error:
        raise _unreadable(field, str(error), raw[:SHOWN_CHARACTERS_MAX]) from None


def _body(packet: pb.Packet) -> bytes:
    if packet.compression in UNCOMPRESSED:
        return packet.body
    bits = WINDOW_BITS.get(packet.compression)
    if bits is None:
        raise _unreadable("packet.compression", "a compression that can't be read", str(packet.compression))
    return _inflated(packet.body, bits)


def _inflated(body: bytes, bits: int) -> bytes:
    """The uncompressed body, never much larger than the limit, however large it would be."""
    inflater = zlib.decompressobj(bits)
    try:
        inflated = inflater.decompress(body, INFLATION_MAX * len(body) + INFLATION_ALLOWANCE)
    except zlib.error as error:
        raise _unreadable("packet.body", str(error), body[:SHOWN_CHARACTERS_MAX]) from None
    if inflater.unconsumed_tail:
        raise _unreadable("packet.body", f"more than {INFLATION_MAX} times as large when uncompressed")
    if not inflater.eof:
        raise _unreadable("packet.body", "compressed data that ends too early")
    return inflated


def _entry(raw: bytes, place: str) -> Iterable[RowChange]:
    entry = _parsed(pb.Entry.FromString, raw, place)
    kind = entry.entry_type if entry.HasField("entry_type") else ROWS
    if kind == ROWS:
        return _event(entry.header, _parsed(pb.RowChange.FromString, entry.store_value, f"{place}.storeValue"), place)
    if kind not in {TRANSACTION_BEGIN, TRANSACTION_END, ENTRY_HEARTBEAT, GTID_LOG}:
        raise _unreadable(f"{place}.entryType", "an unknown type", str(kind))
    return ()


def _event(header: pb.Header, event: pb.RowChange, place: str) -> Iterable[RowChange]:
    kind = _KINDS.get(event.event_type, str(event.event_type)) if event.HasField("event_type") else "UPDATE"
    source_time = header.execute_time or None
    if event.is_ddl or kind in DDL_TYPES:
        database = event.ddl_schema_name or header.schema_name
        return [RowChange(CANAL_PROTOBUF, database, header.table_name, "ddl", None, None, (), source_time)]
    operation = ROW_TYPES.get(kind)
    if operation is None or not event.rows:
        check_rowless(CANAL_PROTOBUF, kind, event.sql)
        return ()
    return _rows(header, event.rows, operation, f"{place}.rowDatas")


def _rows(header: pb.Header, rows: Iterable[pb.RowData], operation: Operation, place: str) -> Iterator[RowChange]:
    database, table, source_time = header.schema_name, header.table_name, header.execute_time or None
    key: tuple[str, ...] = ()
    for number, row in enumerate(rows):
        before, before_key = _columns(row.before, f"{place}[{number}].before") if operation != "insert" else (None, ())
        after, after_key = _columns(row.after, f"{place}[{number}].after") if operation != "delete" else (None, ())
        if not (before if operation == "delete" else after):
            raise _unreadable(f"{place}[{number}]", "a row without columns")
        found = after_key or before_key
        key = key if key == found else found  # one tuple for all rows
        yield RowChange(CANAL_PROTOBUF, database, table, operation, before, after, key, source_time)


def _columns(columns: Iterable[pb.Column], place: str) -> tuple[RowValues | None, tuple[str, ...]]:
    """The row, None where there is none, and the names of its key's columns."""
    row: RowValues = {}
    key: list[str] = []
    for column in columns:
        name = column.name
        if column.is_key:
            key.append(name)
        if column.is_null:
            row[name] = None
            continue
        value = column.value
        try:
            convert = converter(column.mysql_type)
            row[name] = value if convert is None else convert(value)
        except Unconvertible as error:
            raise _unreadable(f"{place}.{name[:SHOWN_CHARACTERS_MAX]}", str(error), value) from None
    return row or None, tuple(key)
