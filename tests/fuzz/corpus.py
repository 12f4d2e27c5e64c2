"""Real messages of every format, to be mutated."""

import base64
import gzip
import json
from pathlib import Path

from orders.decoding import canal_pb2 as pb
from tests.orders.encodings import ENCODINGS, debezium_event
from tests.orders.messages import message, row, updated
from tests.orders.packets import deleted, inserted, packet, rows_entry
from tests.orders.packets import updated as updated_entry

RECORDED = Path(__file__).parents[1] / "orders" / "decoding" / "samples" / "canal-recorded.jsonl"
GZIP = 3


def messages() -> dict[str, list[bytes]]:
    """By format."""
    return {"canal_flat": _flat(), "canal_protobuf": _protobuf(), "debezium": _debezium(), "maxwell": _maxwell()}


def _recorded(mode: str) -> list[bytes]:
    samples = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    return [base64.b64decode(sample["value_b64"]) for sample in samples if sample["mode"] == mode]


def _encoded(prefix: str) -> list[bytes]:
    return [encode() for encode in ENCODINGS if encode.__name__.startswith(prefix)]


def _flat() -> list[bytes]:
    own = [message(row("O1"), row("O2")), updated(row(), status="NEW"), message(row(), kind="DELETE"), message(kind="ALTER", isDdl=True)]
    return [*own, message({"c": "5"}, mysqlType={"c": "SET('vip','a,b','it''s')"}), *_recorded("flat")]


def _protobuf() -> list[bytes]:
    entries = [inserted(row("O1"), row("O2")), updated_entry(row(), row(status="DONE")), deleted(row()), rows_entry(kind=pb.ALTER)]
    compressed = pb.Packet(type=7, compression=GZIP, body=gzip.compress(b"\x12\x00" * 5_000, mtime=0)).SerializeToString()
    rowless = packet(rows_entry(kind=pb.QUERY, sql="# Annotate"), pb.Entry(entry_type=3, store_value=b"\x12\x03270"))
    return [packet(*entries), packet(*entries, compression=GZIP), rowless, compressed, *_recorded("protobuf")]


def _debezium() -> list[bytes]:
    event = debezium_event(row())
    others = [
        {**event, "op": "u", "before": row(status="OLD")},
        {**event, "op": "d", "before": row(), "after": None},
        {**event, "after": {"c": {"scale": 2, "value": "DQ=="}, "at": "2026-01-02T03:04:05.678Z", "x": 1.5e7, "bits": "BQE="}},
        {"status": "BEGIN", "id": "571", "event_count": None, "data_collections": None, "ts_ms": 1},
        {"source": event["source"], "ts_ms": 1, "databaseName": "counter", "ddl": "ALTER TABLE …", "tableChanges": []},
    ]
    return [*_encoded("debezium"), *(json.dumps(found).encode() for found in others), b"null"]


def _maxwell() -> list[bytes]:
    head = {"database": "counter", "table": "sync_order", "ts": 1_767_323_045, "xid": 7}
    others = [
        {**head, "type": "update", "data": {"id": 1, "tags": ["a", "b"], "x": {"y": [1.5]}}, "old": {"tags": []}},
        {**head, "type": "delete", "data": {"id": 1}, "primary_key_columns": ["id"]},
        {**head, "type": "table-alter", "def": {}, "sql": "…"},
        {**head, "type": "bootstrap-complete", "data": {}},
    ]
    return [*_encoded("maxwell"), *(json.dumps(found).encode() for found in others)]
