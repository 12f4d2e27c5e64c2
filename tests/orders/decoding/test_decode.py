import base64
import json
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orders.decoding.decode import RowChange, UnreadableMessage, decode
from tests.orders.messages import MYSQL_TYPES, message, row, updated

RECORDED = Path(__file__).parent / "samples" / "canal-recorded.jsonl"


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDED.read_text().splitlines()]


def as_recorded(columns: dict[str, Any] | None) -> dict[str, Any] | None:
    """The row with its bytes spelled as the recording spells them."""
    if columns is None:
        return None
    return {name: f"0x{value.hex().upper()}" if isinstance(value, bytes) else value for name, value in columns.items()}


def one(raw: bytes) -> RowChange:
    (change,) = decode(raw)
    return change


def column(mysql_type: str, text: Any) -> Any:
    """What a column of that type becomes."""
    after = one(message({"c": text}, mysqlType={"c": mysql_type})).after
    assert after is not None
    return after["c"]


def complaint(raw: bytes) -> UnreadableMessage:
    with pytest.raises(UnreadableMessage) as caught:
        decode(raw)
    return caught.value


class TestRecordedMessages:
    @pytest.mark.parametrize("sample", recorded())
    def test_give_the_rows_that_the_database_had(self, sample: dict[str, Any]) -> None:
        changes = decode(base64.b64decode(sample["value_b64"]))

        rows = [
            {"table": c.table, "operation": c.operation, "before": as_recorded(c.before), "after": as_recorded(c.after)}
            for c in changes
            if c.operation != "ddl"
        ]
        assert rows == sample["rows"]


class TestEnvelope:
    def test_a_message_carries_many_rows(self) -> None:
        changes = decode(message(row("O1"), row("O2")))

        assert [change.after and change.after["order_id"] for change in changes] == ["O1", "O2"]
        assert {(change.database, change.table, change.operation, change.primary_key) for change in changes} == {
            ("counter", "sync_order", "insert", ("id",))
        }
        assert changes[0].source_time == 1_767_323_045_000

    def test_a_deleted_row_is_before(self) -> None:
        change = one(message(row("O1"), kind="DELETE"))

        assert (change.operation, change.after, change.before and change.before["order_id"]) == ("delete", None, "O1")

    def test_the_old_row_is_the_new_one_with_old_laid_over_it(self) -> None:
        change = one(updated(row("O1", direction="2", status="DONE"), direction="1", status=None))

        assert change.before == {**(change.after or {}), "direction": "OPEN", "status": None}
        assert change.after
        assert change.after["direction"] == "CLOSE"

    def test_an_update_without_old_says_nothing_of_the_old_row(self) -> None:
        assert one(message(row("O1"), kind="UPDATE")).before is None

    def test_ddl_has_no_rows(self) -> None:
        change = one(message(kind="ALTER", isDdl=True, mysqlType=None, pkNames=None, sql="ALTER TABLE …"))

        assert (change.operation, change.before, change.after, change.primary_key) == ("ddl", None, None, ())

    @pytest.mark.parametrize("raw", [None, message(kind="QUERY", sql="# Annotate"), message(), b'{"type":"INSERT","data":[]}'])
    def test_what_is_about_no_row_gives_none(self, raw: bytes | None) -> None:
        assert decode(raw) == []

    def test_missing_and_further_fields_are_taken_as_they_are(self) -> None:
        change = one(b'{"type": "INIT", "data": [{"a": "1"}], "gtid": "x", "new": {"in": [2]}}')

        assert change == RowChange("canal_flat", "", "", "insert", None, {"a": "1"}, (), None)

    def test_numbers_are_taken_by_their_text(self) -> None:
        raw = b'{"type": "INSERT", "es": "17", "data": [{"a": 1.10, "b": 18446744073709551616, "c": true, "d": null}]}'

        change = one(raw)

        assert change.after == {"a": "1.10", "b": "18446744073709551616", "c": "1", "d": None}
        assert change.source_time == 17


class TestValues:
    @pytest.mark.parametrize(
        ("mysql_type", "text", "value"),
        [
            ("ENUM('OPEN','CLOSE')", "1", "OPEN"),
            ("enum('open','close') COLLATE utf8mb4_bin", "2", "close"),
            ("ENUM('a,b','it''s','back\\\\slash', 'par)en')", "1", "a,b"),
            ("ENUM('a,b','it''s','back\\\\slash', 'par)en')", "2", "it's"),
            ("ENUM('a,b','it''s','back\\\\slash', 'par)en')", "3", "back\\slash"),
            ("ENUM('a,b','it''s','back\\\\slash', 'par)en')", "4", "par)en"),
            ("ENUM('a')", "0", ""),
            ("ENUM('a','b')", "b", "b"),
            ("SET('vip','api','test')", "5", "vip,test"),
            ("set('vip','api','test')", "0", ""),
            ("SET('vip','api')", "vip,api", "vip,api"),
            ("VARBINARY(16)", "\x00ÿ\x10", b"\x00\xff\x10"),
            ("longblob", "Þ\xad", b"\xde\xad"),
            ("BINARY(2)", "ab", b"ab"),
            ("BIT(8)", "5", "5"),
            ("BIGINT unsigned", "18446744073709551615", "18446744073709551615"),
            ("bigint(20) unsigned", "1", "1"),
            ("DECIMAL(36,18)", "1.500000000000000000", "1.500000000000000000"),
            ("DOUBLE", "1.0E21", "1.0E21"),
            ("DATETIME(3)", "0000-00-00 00:00:00.000", "0000-00-00 00:00:00.000"),
            ("JSON", '{"n": "Ã©"}', '{"n": "é"}'),
            ("JSON", '{"n": "é€"}', '{"n": "é€"}'),
            ("TEXT", "Ã©", "Ã©"),
            ("VARCHAR(20)", "a\x00b", "a\x00b"),
            ("ENUM('a')", None, None),
        ],
    )
    def test_are_what_the_column_holds(self, mysql_type: str, text: str | None, value: object) -> None:
        assert column(mysql_type, text) == value

    @pytest.mark.parametrize(
        ("mysql_type", "text"),
        [
            ("ENUM('a','b')", "3"),
            ("ENUM('a','b')", "9" * 5_000),
            ("ENUM('a','b')", "c"),
            ("SET('a','b')", "4"),
            ("SET('a','b')", "a,c"),
            ("BLOB", "€"),
            ("ENUM('a', b)", "1"),
            ("ENUM('" + "a" * 3_000, "1"),
        ],
    )
    def test_that_no_such_column_holds_are_refused_with_their_place(self, mysql_type: str, text: str) -> None:
        error = complaint(message({"c": text}, mysqlType={"c": mysql_type}))

        assert error.source_format == "canal_flat"
        assert error.field in {"data[0].c", "mysqlType.c"}
        assert len(error.value) < 100

    def test_labels_cannot_make_a_message_many_times_larger(self) -> None:
        labels = ",".join(f"'{letter * 10_000}'" for letter in "abcdefghijklmnopqrst")
        rows = [{"c": str((1 << 20) - 1 - number)} for number in range(1_000)]

        error = complaint(message(*rows, mysqlType={"c": f"SET({labels})"}))

        assert "many times larger" in error.problem


class TestUnreadableMessages:
    @pytest.mark.parametrize(
        ("raw", "field"),
        [
            (b"", "message"),
            (b"garbage", "message"),
            (b"\xff\xfe", "message"),
            (b"[]", "message"),
            (b"{}", "message"),
            (b"[" * 200_000, "message"),
            (b'{"x":' * 50_000, "message"),
            (b'{"type":"INSERT","data":[{"a":' + b"9" * 10_000 + b"}]}", "[...][0][...]"),
            (b'{"type":"INSERT","data":[{"a":NaN}]}', "message"),
            (b'{"type":"INSERT","data":[{"a":"\\ud800"}]}', "message"),
            (b'{"type":"INSERT","data":[{"a":"\xff"}]}', "message"),
            (b'{"type":"INSERT","data":[{"a":{"b":1}}]}', "data[0][...]"),
            (b'{"type":"INSERT","data":{"a":"b"}}', "data"),
            (b'{"type":"INSERT","data":[null]}', "data[0]"),
            (b'{"type":"INSERT","data":[{"a":"b"},{}]}', "data[1]"),
            (b'{"type":"INSERT","sql":"insert into t values (1)"}', "data"),
            (b'{"type":"UPSERT","data":[{"a":"b"}]}', "type"),
            (b'{"type":7}', "type"),
            (b'{"type":"UPDATE","data":[{"a":"b"}],"old":[{},{}]}', "old"),
            (b'{"type":"INSERT","data":[{"a":"b"}],"mysqlType":["x"]}', "mysqlType"),
        ],
    )
    def test_say_what_and_where(self, raw: bytes, field: str) -> None:
        error = complaint(raw)

        assert error.field == field
        assert len(str(error)) < 400

    def test_of_two_equal_names_the_last_counts(self) -> None:
        assert one(b'{"type":"INSERT","data":[{"a":"1","a":"2"}]}').after == {"a": "2"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "id", "direction"]) | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
envelopes = st.fixed_dictionaries(
    {"type": st.sampled_from(["INSERT", "UPDATE", "DELETE", "QUERY", "ALTER", "?"]) | json_values},
    optional=dict.fromkeys(("data", "old", "mysqlType", "pkNames", "database", "table", "isDdl", "es", "sql"), json_values),
)
REAL = [message(row()), updated(row(), status="NEW"), message(kind="ALTER", isDdl=True)]


class TestAnything:
    """Whatever comes, rows or UnreadableMessage come out."""

    @given(envelopes)
    @settings(max_examples=300, deadline=None)
    def test_json_of_any_shape(self, envelope: dict[str, Any]) -> None:
        self.decode_or_complain(json.dumps(envelope).encode("utf-8", "surrogatepass"))

    @given(st.sampled_from(REAL), st.integers(0, 2_000), st.integers(0, 2_000), st.binary(max_size=6))
    @example(REAL[0], 0, 0, b"")
    @settings(max_examples=300, deadline=None)
    def test_real_messages_with_a_part_replaced(self, raw: bytes, start: int, length: int, replacement: bytes) -> None:
        self.decode_or_complain(raw[:start] + replacement + raw[start + length :])

    @staticmethod
    def decode_or_complain(raw: bytes) -> None:
        with suppress(UnreadableMessage):
            assert isinstance(decode(raw), list)


class TestCost:
    def test_memory_stays_a_small_multiple_of_the_message(self) -> None:
        raw = message(*(row(f"O{number}") for number in range(2_000)), mysqlType=MYSQL_TYPES)

        assert peak_bytes(decode, raw) < 8 * len(raw)

    @pytest.mark.parametrize(
        ("head", "item", "tail"),
        [
            (b'{"type":"INSERT","mysqlType":null,"data":[', b"{}", b"]}"),
            (b'{"type":"INSERT","mysqlType":null,"data":[', b'{"":""}', b"]}"),
            (b'{"type":"INSERT","data":[', b'{"":1}', b"]}"),
            (b'{"type":"insert","data":{"a":[', b"[]", b"]}}"),
            (b'{"type":"insert","data":{"a":[', b"1e40", b"]}}"),
            (b'{"op":"c","source":{},"after":{"a":[', b"{}", b"]}}"),
            (b'{"payload":{},"schema":{"type":"","fields":[', b'{"type":""}', b"]}}"),
        ],
    )
    def test_memory_of_a_message_of_next_to_nothing_is_about_that_of_json_loads(self, head: bytes, item: bytes, tail: bytes) -> None:
        raw = head + b",".join([item] * 5_000) + tail

        assert peak_bytes(decode, raw) < 4 * peak_bytes(json.loads, raw)


def peak_bytes(work: Any, raw: bytes) -> int:
    tracemalloc.start()
    with suppress(UnreadableMessage):
        work(raw)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
