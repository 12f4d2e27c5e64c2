"""Canal's protobuf packets, as it writes them with flatMessage=false."""

import gzip
import zlib
from collections.abc import Mapping
from typing import Any

from orders.decoding import canal_pb2 as pb
from tests.orders.messages import MYSQL_TYPES

EXECUTE_TIME = 1_767_323_045_000


def columns(row: Mapping[str, Any], types: Mapping[str, str] = MYSQL_TYPES) -> list[pb.Column]:
    return [pb.Column(name=name, value=value, mysql_type=types.get(name), is_null=value is None, is_key=name == "id") for name, value in row.items()]


def rows_entry(*rows: pb.RowData, kind: int | None = pb.INSERT, entry_type: int | None = 2, **event: Any) -> pb.Entry:
    """An entry of rows of the sync-order table."""
    header = pb.Header(execute_time=EXECUTE_TIME, schema_name="counter", table_name="sync_order")
    change = pb.RowChange(rows=rows, event_type=kind, **event)  # type: ignore[arg-type]
    return pb.Entry(header=header, entry_type=entry_type, store_value=change.SerializeToString())


def inserted(*rows: Mapping[str, Any], types: Mapping[str, str] = MYSQL_TYPES) -> pb.Entry:
    return rows_entry(*(pb.RowData(after=columns(row, types)) for row in rows))


def updated(before: Mapping[str, Any], after: Mapping[str, Any]) -> pb.Entry:
    return rows_entry(pb.RowData(before=columns(before), after=columns(after)), kind=pb.UPDATE)


def deleted(row: Mapping[str, Any]) -> pb.Entry:
    return rows_entry(pb.RowData(before=columns(row)), kind=pb.DELETE)


def packet(*entries: pb.Entry, compression: int = 0, kind: int = 7) -> bytes:
    """The packet's bytes; its body compressed where the protocol says how."""
    body = pb.Messages(messages=[entry.SerializeToString() for entry in entries]).SerializeToString()
    compressed = zlib.compress(body) if compression == 2 else gzip.compress(body, mtime=0) if compression == 3 else body
    return pb.Packet(type=kind, compression=compression, body=compressed).SerializeToString()
