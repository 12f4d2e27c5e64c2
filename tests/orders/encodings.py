"""One order, inserted, as each of the pipelines writes it."""

import base64
import json
from typing import Any

from orders.decoding import canal_pb2 as pb
from tests.orders.messages import CREATED_AT, CREATED_MS, message, row
from tests.orders.packets import columns, packet, rows_entry

SOURCE = {"connector": "mysql", "name": "counter", "ts_ms": CREATED_MS // 1000 * 1000, "snapshot": "false", "db": "counter", "table": "sync_order"}
DECIMAL = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "version": 1}
SCALED = {**DECIMAL, "parameters": {"scale": "18", "connect.decimal.precision": "36"}}
UNSIGNED = {**DECIMAL, "parameters": {"scale": "0"}}
TYPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("id", "user_id", "sequence"), UNSIGNED),
    **dict.fromkeys(("quantity", "quoted_usdt"), SCALED),
    "shard": {"type": "int16"},
    "direction": {"type": "string", "name": "io.debezium.data.Enum", "version": 1, "parameters": {"allowed": "OPEN,CLOSE"}},
    "created_at": {"type": "int64", "name": "io.debezium.time.Timestamp", "version": 1},
}


def unscaled(text: str, scale: int) -> str:
    """A decimal as Connect prints it: the whole number's bytes in base64."""
    whole, _, fraction = text.partition(".")
    number = int(whole + fraction.ljust(scale, "0"))
    return base64.b64encode(number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)).decode()


def canal_flat(order_id: str = "O1", **changes: str) -> bytes:
    return message(row(order_id, **changes))


def canal_protobuf(order_id: str = "O1", **changes: str) -> bytes:
    return packet(rows_entry(pb.RowData(after=columns(row(order_id, **changes)))), pb.Entry(entry_type=3, store_value=b"\x12\x03270"))


def debezium_event(after: dict[str, Any]) -> dict[str, Any]:
    return {"before": None, "after": after, "source": SOURCE, "op": "c", "ts_ms": CREATED_MS + 900, "transaction": None}


def debezium_with_schema(order_id: str = "O1", **changes: str) -> bytes:
    """With Debezium's own settings: DECIMAL and BIGINT UNSIGNED in base64."""
    plain = row(order_id, **changes)
    after = {**plain, "direction": "OPEN", "shard": int(plain["shard"]), "created_at": CREATED_MS}
    after |= {name: unscaled(plain[name], 18) for name in ("quantity", "quoted_usdt")}
    after |= {name: unscaled(plain[name], 0) for name in ("id", "user_id", "sequence")}
    fields = [{"optional": True, "field": name, **TYPES.get(name, {"type": "string"})} for name in after]
    rows = [{"type": "struct", "fields": fields, "optional": True, "name": "c.Value", "field": part} for part in ("before", "after")]
    schema = {"type": "struct", "fields": [*rows, {"type": "string", "optional": False, "field": "op"}], "optional": False, "name": "c.Envelope"}
    return json.dumps({"schema": schema, "payload": debezium_event(after)}).encode()


def debezium(order_id: str = "O1", **changes: str) -> bytes:
    """Without a schema, decimals as text, unsigned as long."""
    plain = row(order_id, **changes)
    numbers = {name: int(plain[name]) for name in ("id", "user_id", "shard", "sequence")}
    return json.dumps(debezium_event({**plain, **numbers, "direction": "OPEN", "created_at": CREATED_MS})).encode()


def maxwell(order_id: str = "O1", **changes: str) -> bytes:
    """With amounts as numbers, of full scale."""
    plain = row(order_id, **changes)
    numbers = {name: int(plain[name]) for name in ("id", "user_id", "shard", "sequence")}
    data = json.dumps({**plain, **numbers, "direction": "OPEN", "created_at": CREATED_AT, "quantity": "#q", "quoted_usdt": "#u"})
    data = data.replace('"#q"', plain["quantity"]).replace('"#u"', plain["quoted_usdt"])
    head = json.dumps({"database": "counter", "table": "sync_order", "type": "insert", "ts": CREATED_MS // 1000, "xid": 7125, "commit": True})
    return f'{head[:-1]},"data":{data},"primary_key_columns":["id"]}}'.encode()


ENCODINGS = [canal_flat, canal_protobuf, debezium_with_schema, debezium, maxwell]
