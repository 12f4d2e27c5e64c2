import base64
import json
from typing import Any

import pytest

from orders.decoding.decode import RowChange, UnreadableMessage, decode

SOURCE = {"connector": "mysql", "name": "counter", "ts_ms": 1_767_323_045_000, "snapshot": "false", "db": "counter", "table": "sync_order"}
CONNECT, DEBEZIUM = "org.apache.kafka.connect.data", "io.debezium"


def event(op: str = "c", before: Any = None, after: Any = None, **changes: Any) -> dict[str, Any]:
    return {"before": before, "after": after, "source": SOURCE, "op": op, "ts_ms": 1_767_323_045_900, "transaction": None, **changes}


def enveloped(payload: Any, *columns: dict[str, Any]) -> bytes:
    """With its schema, in which both rows have these columns."""
    rows = [{"type": "struct", "fields": columns, "optional": True, "name": "c.Value", "field": part} for part in ("before", "after")]
    return json.dumps({"schema": {"type": "struct", "fields": [*rows, {"type": "string", "field": "op"}]}, "payload": payload}).encode()


def column(value: Any, type_: str, name: str | None = None, **parameters: str) -> Any:
    """What a column of that schema becomes."""
    schema = {"type": type_, "optional": False, "name": name, "version": 1, "parameters": parameters, "field": "c"}
    (change,) = decode(enveloped(event(after={"c": value}), schema))
    assert change.after is not None
    return change.after["c"]


def complaint(raw: bytes) -> UnreadableMessage:
    with pytest.raises(UnreadableMessage) as caught:
        decode(raw)
    return caught.value


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


class TestEvents:
    @pytest.mark.parametrize("wrap", [lambda payload: json.dumps(payload).encode(), enveloped], ids=["bare", "enveloped"])
    @pytest.mark.parametrize(
        ("op", "operation", "before", "after"),
        [
            ("c", "insert", None, {"id": "7"}),
            ("r", "insert", None, {"id": "7"}),
            ("u", "update", {"id": "7"}, {"id": "7"}),
            ("d", "delete", {"id": "7"}, None),
            ("t", "ddl", None, None),
        ],
    )
    def test_are_row_changes(self, wrap: Any, op: str, operation: Any, before: Any, after: Any) -> None:
        changes = decode(wrap(event(op, before, after)))

        assert changes == [RowChange("debezium", "counter", "sync_order", operation, before, after, (), 1_767_323_045_000)]

    def test_an_update_may_say_nothing_of_the_old_row(self) -> None:
        (change,) = decode(json.dumps(event("u", None, {"id": 7})).encode())

        assert change.before is None

    def test_a_changed_key_is_a_delete_a_tombstone_and_an_insert(self) -> None:
        messages = [json.dumps(event("d", {"id": 7})).encode(), None, json.dumps(event("c", None, {"id": 8})).encode()]

        assert [change.operation for raw in messages for change in decode(raw)] == ["delete", "insert"]

    def test_a_snapshots_row_without_a_time_has_the_messages(self) -> None:
        (change,) = decode(json.dumps(event("r", None, {"id": 7}, source={**SOURCE, "ts_ms": 0})).encode())

        assert change.source_time == 1_767_323_045_900

    @pytest.mark.parametrize(
        "found",
        [
            None,
            {"status": "BEGIN", "id": "571", "event_count": None, "data_collections": None, "ts_ms": 1},
            {"status": "END", "id": "571", "event_count": 2, "data_collections": [{"data_collection": "counter.sync_order", "event_count": 2}]},
            {"ts_ms": 1_767_323_045_900},
            event("m", message={"prefix": "a", "content": "AA=="}),
        ],
    )
    def test_what_is_about_no_row_gives_none(self, found: Any) -> None:
        assert decode(json.dumps(found).encode()) == decode(enveloped(found)) == []

    def test_a_change_of_the_schema_is_ddl(self) -> None:
        raw = json.dumps({"source": SOURCE, "ts_ms": 1, "databaseName": "counter", "ddl": "ALTER TABLE …", "tableChanges": []}).encode()

        (change,) = decode(raw)

        assert (change.operation, change.database, change.table) == ("ddl", "counter", "sync_order")

    def test_a_column_may_be_called_payload(self) -> None:
        (change,) = decode(json.dumps(event(after={"payload": {"a": [1.50, None]}})).encode())

        assert change.after == {"payload": '{"a":[1.5,null]}'}


class TestValues:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ('"0.050000000000000000"', "0.050000000000000000"),
            ("0.050000000000000000", "0.050000000000000000"),
            ("1.2345678E7", "12345678"),
            ("5.0E-9", "0.0000000050"),
            ("1E+300", "1E+300"),
            ("18446744073709551615", "18446744073709551615"),
            ("-5", "-5"),
            ("true", "1"),
            ("null", None),
        ],
    )
    def test_without_a_schema_keep_their_digits(self, value: str, text: str | None) -> None:
        (change,) = decode(json.dumps(event(after={"c": "#"})).replace('"#"', value).encode())

        assert change.after == {"c": text}

    @pytest.mark.parametrize(
        ("value", "type_", "name", "parameters", "expected"),
        [
            (encoded((5 * 10**16).to_bytes(8, "big")), "bytes", f"{CONNECT}.Decimal", {"scale": "18"}, "0.050000000000000000"),
            (encoded((-150).to_bytes(2, "big", signed=True)), "bytes", f"{CONNECT}.Decimal", {"scale": "2"}, "-1.50"),
            (encoded(b"\x00" + b"\xff" * 8), "bytes", f"{CONNECT}.Decimal", {"scale": "0"}, "18446744073709551615"),
            (1.5, "bytes", f"{CONNECT}.Decimal", {"scale": "2"}, "1.5"),
            ({"scale": 1, "value": "DQ=="}, "struct", f"{DEBEZIUM}.data.VariableScaleDecimal", {}, "1.3"),
            ("1.50", "string", None, {}, "1.50"),
            (1.5, "double", None, {}, "1.5"),
            (-1, "int64", None, {"__debezium.source.column.type": "BIGINT UNSIGNED"}, "18446744073709551615"),
            (-1, "int64", None, {"__debezium.source.column.type": "BIGINT"}, "-1"),
            (encoded(b"\x00\xff\x10"), "bytes", None, {}, b"\x00\xff\x10"),
            ("OPEN", "string", f"{DEBEZIUM}.data.Enum", {"allowed": "OPEN,CLOSE"}, "OPEN"),
            ("vip,api", "string", f"{DEBEZIUM}.data.EnumSet", {"allowed": "vip,api"}, "vip,api"),
            ('{"a": 1}', "string", f"{DEBEZIUM}.data.Json", {}, '{"a": 1}'),
            (encoded(b"\x05\x01"), "bytes", f"{DEBEZIUM}.data.Bits", {"length": "9"}, "261"),
            (True, "boolean", None, {}, "1"),
            (20_455, "int32", f"{DEBEZIUM}.time.Date", {}, "2026-01-02"),
            (-1, "int32", f"{CONNECT}.Date", {}, "1969-12-31"),
            (2026, "int32", f"{DEBEZIUM}.time.Year", {}, "2026"),
            (45_296_789, "int32", f"{DEBEZIUM}.time.Time", {}, "12:34:56.789"),
            (45_296_789_012, "int64", f"{DEBEZIUM}.time.MicroTime", {}, "12:34:56.789012"),
            (-3_020_399_000_000, "int64", f"{DEBEZIUM}.time.MicroTime", {}, "-838:59:59.000000"),
            (45_296_789_012_345, "int64", f"{DEBEZIUM}.time.NanoTime", {}, "12:34:56.789012"),
            (1_767_323_045_678, "int64", f"{DEBEZIUM}.time.Timestamp", {}, "2026-01-02 03:04:05.678"),
            (1_767_323_045_678, "int64", f"{CONNECT}.Timestamp", {}, "2026-01-02 03:04:05.678"),
            (1_767_323_045_678_901, "int64", f"{DEBEZIUM}.time.MicroTimestamp", {}, "2026-01-02 03:04:05.678901"),
            (1_767_323_045_678_901_234, "int64", f"{DEBEZIUM}.time.NanoTimestamp", {}, "2026-01-02 03:04:05.678901"),
            ("2026-01-02T03:04:05.678Z", "string", f"{DEBEZIUM}.time.ZonedTimestamp", {}, "2026-01-02 03:04:05.678"),
            ("2026-01-02T03:04:05+02:00", "string", f"{DEBEZIUM}.time.ZonedTimestamp", {}, "2026-01-02 01:04:05"),
            (None, "int64", f"{DEBEZIUM}.time.Timestamp", {}, None),
        ],
    )
    def test_are_what_the_schema_says(self, value: Any, type_: str, name: str | None, parameters: dict[str, str], expected: Any) -> None:
        assert column(value, type_, name, **parameters) == expected

    @pytest.mark.parametrize(
        ("value", "type_", "name", "parameters"),
        [
            ("?", "bytes", f"{CONNECT}.Decimal", {"scale": "2"}),
            ("", "bytes", f"{CONNECT}.Decimal", {"scale": "2"}),
            ("AA==", "bytes", f"{CONNECT}.Decimal", {"scale": "9999999999"}),
            ("AA==", "bytes", f"{CONNECT}.Decimal", {"scale": "-2"}),
            ("A" * 4_000, "bytes", f"{CONNECT}.Decimal", {"scale": "2"}),
            (7, "bytes", None, {}),
            (encoded(bytes(9)), "bytes", f"{DEBEZIUM}.data.Bits", {}),
            ("x", "int32", f"{DEBEZIUM}.time.Date", {}),
            (10**18, "int32", f"{DEBEZIUM}.time.Date", {}),
            (10**18, "int64", f"{DEBEZIUM}.time.Timestamp", {}),
            (10**18, "int64", f"{DEBEZIUM}.time.MicroTime", {}),
            ("2026-01-02", "string", f"{DEBEZIUM}.time.ZonedTimestamp", {}),
            ("2026-13-02T03:04:05Z", "string", f"{DEBEZIUM}.time.ZonedTimestamp", {}),
            ("0001-01-01T00:00:00+02:00", "string", f"{DEBEZIUM}.time.ZonedTimestamp", {}),
        ],
    )
    def test_that_no_such_column_holds_are_refused_with_their_place(self, value: Any, type_: str, name: str, parameters: dict[str, str]) -> None:
        schema = {"type": type_, "name": name, "parameters": parameters, "field": "c"}

        error = complaint(enveloped(event(after={"c": value}), schema))

        assert (error.source_format, error.field) == ("debezium", "after.c")
        assert len(str(error)) < 300


class TestUnreadableEvents:
    @pytest.mark.parametrize(
        ("found", "field"),
        [
            (event("x", None, {"id": 7}), "op"),
            (event("c"), "after"),
            (event("d"), "before"),
            (event("c", None, [7]), "after"),
            (event("u", 7, {"id": 7}), "before"),
            (event("c", None, {}), "after"),
            (event("c", None, {"id": 7}, source=None), "source"),
            (event("c", None, {"id": 7}, source={"db": 7}), "db"),
            ({"something": "else"}, "message"),
        ],
    )
    def test_say_what_and_where(self, found: Any, field: str) -> None:
        assert complaint(json.dumps(found).encode()).field == complaint(enveloped(found)).field == field

    def test_a_broken_schema_is_named(self) -> None:
        error = complaint(json.dumps({"schema": {"type": "struct", "fields": [{"type": 7}]}, "payload": event(after={"id": 7})}).encode())

        assert error.field == "schema.fields[0].type"
