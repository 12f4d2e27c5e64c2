import gzip
import tracemalloc
from typing import Any

import pytest

from orders.decoding import canal_pb2 as pb
from orders.decoding.decode import RowChange, UnreadableMessage, decode
from tests.orders.messages import message, row
from tests.orders.packets import EXECUTE_TIME, columns, deleted, inserted, packet, rows_entry, updated

END = pb.Entry(entry_type=3, store_value=b"\x12\x03270")
GZIP, ZLIB, LZF = 3, 2, 4


def complaint(raw: bytes) -> UnreadableMessage:
    with pytest.raises(UnreadableMessage) as caught:
        decode(raw)
    return caught.value


def column(mysql_type: str, text: str) -> Any:
    (change,) = decode(packet(inserted({"c": text}, types={"c": mysql_type})))
    assert change.after is not None
    return change.after["c"]


class TestPackets:
    def test_hold_many_entries_of_many_rows(self) -> None:
        old, new = row("O2"), row("O2", direction="2")

        changes = decode(packet(inserted(row("O1"), row("O2")), END, updated(old, new), deleted(new), END))

        assert [change.operation for change in changes] == ["insert", "insert", "update", "delete"]
        assert {(change.source_format, change.database, change.table, change.primary_key, change.source_time) for change in changes} == {
            ("canal_protobuf", "counter", "sync_order", ("id",), EXECUTE_TIME)
        }
        assert changes[2].before == {**old, "direction": "OPEN"}
        assert changes[2].after == {**new, "direction": "CLOSE"} == changes[3].before
        assert changes[3].after is changes[0].before is None

    def test_give_the_rows_that_flat_messages_give(self) -> None:
        rows = [row("O1", status=None), row("O2", instrument="")]

        assert [change.after for change in decode(packet(inserted(*rows)))] == [change.after for change in decode(message(*rows))]

    @pytest.mark.parametrize("compression", [0, 1, ZLIB, GZIP])
    def test_may_be_compressed(self, compression: int) -> None:
        rows = [row(f"O{number}") for number in range(300)]

        assert len(decode(packet(inserted(*rows), compression=compression))) == 300

    @pytest.mark.parametrize(
        ("mysql_type", "text", "value"),
        [
            ("ENUM('OPEN','CLOSE')", "2", "CLOSE"),
            ("set('vip','api','test')", "5", "vip,test"),
            ("VARBINARY(16)", "\x00ÿ\x10", b"\x00\xff\x10"),
            ("bigint(20) unsigned", "18446744073709551615", "18446744073709551615"),
            ("TEXT", "", ""),
        ],
    )
    def test_print_values_as_flat_messages_do(self, mysql_type: str, text: str, value: object) -> None:
        assert column(mysql_type, text) == value

    @pytest.mark.parametrize("entry_type", [1, 3, 4, 5])
    def test_entries_about_no_row_give_none(self, entry_type: int) -> None:
        assert decode(packet(pb.Entry(entry_type=entry_type, store_value=b"\xff"))) == []

    @pytest.mark.parametrize("entry", [rows_entry(kind=pb.QUERY, sql="# Annotate"), rows_entry(kind=pb.XACOMMIT), rows_entry()])
    def test_events_without_rows_give_none(self, entry: pb.Entry) -> None:
        assert decode(packet(entry)) == []

    @pytest.mark.parametrize("entry", [rows_entry(kind=pb.ALTER), rows_entry(kind=pb.QUERY, is_ddl=True)])
    def test_ddl_has_no_rows(self, entry: pb.Entry) -> None:
        assert decode(packet(entry)) == [RowChange("canal_protobuf", "counter", "sync_order", "ddl", None, None, (), EXECUTE_TIME)]

    def test_ddl_names_its_own_database(self) -> None:
        (change,) = decode(packet(rows_entry(kind=pb.CREATE, ddl_schema_name="other")))

        assert change.database == "other"

    def test_what_is_left_out_has_the_protocols_default(self) -> None:
        (change,) = decode(packet(rows_entry(pb.RowData(after=columns(row())), kind=None, entry_type=None)))

        assert (change.operation, change.before) == ("update", None)

    def test_a_heartbeat_has_no_rows(self) -> None:
        assert decode(packet(kind=11)) == []


class TestUnreadablePackets:
    @pytest.mark.parametrize(
        ("raw", "field"),
        [
            (b"\x18", "packet"),
            (b"\x18\x07\x2a\x05ab", "packet"),
            (b"\x18\x03", "packet.type"),
            (b"\x2a\x00", "packet.type"),
            (b"\x18\x07\x2a\x02\x12\x09", "packet.body"),
            (pb.Packet(type=7, body=pb.Messages(messages=[b"\x0a"]).SerializeToString()).SerializeToString(), "messages[0]"),
            (packet(END, pb.Entry(store_value=b"\x62\x02\x0a\x05")), "messages[1].storeValue"),
            (packet(pb.Entry(store_value=b"\x62\x05\x12\x03\x42\x01\xff")), "messages[0].storeValue"),
            (packet(pb.Entry(entry_type=9)), "messages[0].entryType"),
            (packet(rows_entry(pb.RowData(), kind=99)), "type"),
            (packet(rows_entry(sql="insert into t values (1)")), "data"),
            (packet(inserted(row(), {})), "messages[0].rowDatas[1]"),
            (packet(inserted(row(direction="7"))), "messages[0].rowDatas[0].after.direction"),
            (packet(deleted({"direction": "1"}), rows_entry(pb.RowData(after=columns(row())), kind=pb.DELETE)), "messages[1].rowDatas[0]"),
            (pb.Packet(type=7, compression=LZF, body=b"x").SerializeToString(), "packet.compression"),
            (pb.Packet(type=7, compression=GZIP, body=b"x").SerializeToString(), "packet.body"),
            (pb.Packet(type=7, compression=GZIP, body=gzip.compress(b"x" * 99, mtime=0)[:-9]).SerializeToString(), "packet.body"),
        ],
    )
    def test_say_what_and_where(self, raw: bytes, field: str) -> None:
        error = complaint(raw)

        assert (error.source_format, error.field) == ("canal_protobuf", field)
        assert len(str(error)) < 400


class TestMemory:
    """However hostile, a packet costs a small multiple of its size."""

    @staticmethod
    def peak_bytes(raw: bytes) -> int:
        tracemalloc.start()
        try:
            decode(raw)
        except UnreadableMessage:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return peak

    def test_a_compressed_bomb_is_not_unpacked(self) -> None:
        bomb = pb.Packet(type=7, compression=GZIP, body=gzip.compress(bytes(50_000_000))).SerializeToString()

        assert complaint(bomb).field == "packet.body"
        assert self.peak_bytes(bomb) < 150 * len(bomb)

    def test_of_real_rows(self) -> None:
        raw = packet(inserted(*(row(f"O{number}") for number in range(2_000))))

        assert self.peak_bytes(raw) < 8 * len(raw)

    @pytest.mark.parametrize("event", [b"\x62\x00" * 100_000, b"\x62\x80\x80\x08" + b"\x12\x00" * 65_536])
    def test_of_rows_and_columns_that_are_empty(self, event: bytes) -> None:
        raw = packet(pb.Entry(store_value=event))

        assert self.peak_bytes(raw) < 40 * len(raw)
