"""The change log as Canal shows it."""

import json
from typing import Any

from sandbox import binlog
from sandbox.storage import Change, SyncOrderRow

AT_MS = 1_795_356_880_678
ROW = SyncOrderRow(
    17, "O1", "1001", 2, 55, "EXCHANGE", "CLOSE", "BTC", "0.05000000", "3050.120000", "BTC-USDT-OPTION", "C1", "PLACED", 1_767_322_145_678
)


def published(change: Change) -> list[tuple[int, dict[str, Any]]]:
    messages = binlog.messages(change, batch_id=3, sent_at_ms=AT_MS + 5, partitions=4)
    return [(message.partition, json.loads(message.value)) for message in messages]


class TestInsert:
    def test_every_value_is_a_string_or_null(self) -> None:
        ((_, message),) = published(Change("INSERT", [ROW], None, "", AT_MS))

        assert message["data"] == [
            {
                "id": "17",
                "order_id": "O1",
                "user_id": "1001",
                "shard": "2",
                "sequence": "55",
                "kind": "EXCHANGE",
                "direction": "2",
                "asset": "BTC",
                "quantity": "0.050000000000000000",
                "quoted_usdt": "3050.120000000000000000",
                "instrument": "BTC-USDT-OPTION",
                "contract_id": "C1",
                "status": "PLACED",
                "created_at": "2026-01-02 02:49:05.678",
                "mac": None,
                "mac_key_id": None,
            }
        ]

    def test_the_frame_is_canals(self) -> None:
        ((_, message),) = published(Change("INSERT", [ROW], None, "", AT_MS))

        assert list(message) == [
            *("data", "database", "es", "gtid", "id", "isDdl", "mysqlType", "old", "pkNames", "sql", "sqlType", "table", "ts", "type"),
        ]
        assert (message["database"], message["table"], message["type"], message["isDdl"]) == ("counter", "sync_order", "INSERT", False)
        assert (message["es"], message["ts"], message["id"]) == (1_795_356_880_000, AT_MS + 5, 3)
        assert message["mysqlType"]["direction"] == "ENUM('OPEN','CLOSE')"
        assert set(message["mysqlType"]) == set(message["sqlType"]) == set(message["data"][0])

    def test_what_is_absent_is_null(self) -> None:
        deposit = ROW._replace(kind="DEPOSIT", direction=None, quoted_usdt=None, contract_id=None)

        ((_, message),) = published(Change("INSERT", [deposit], None, "", AT_MS))

        assert [message["data"][0][name] for name in ("direction", "quoted_usdt", "contract_id")] == [None, None, None]

    def test_a_large_statement_is_several_messages_of_several_rows(self) -> None:
        rows = [ROW._replace(id=number) for number in range(300)]

        messages = [message for _, message in published(Change("INSERT", rows, None, "", AT_MS))]

        assert len(messages) == 8
        assert [row["id"] for message in messages for row in message["data"]] == [str(number) for number in range(300)]

    def test_rows_go_to_their_users_partition(self) -> None:
        rows = [ROW._replace(user_id=str(user)) for user in range(1000, 1040)]

        spread = published(Change("INSERT", rows, None, "", AT_MS))

        assert {partition for partition, _ in spread} == {0, 1, 2, 3}
        assert all(binlog.partition_of(row["user_id"], 4) == partition for partition, message in spread for row in message["data"])


class TestUpdate:
    def test_it_shows_the_row_and_what_was_there_before(self) -> None:
        ((_, message),) = published(Change("UPDATE", [ROW._replace(status="ACTIVE")], [{"status": "PLACED"}], "", AT_MS))

        assert (message["type"], message["data"][0]["status"], message["old"]) == ("UPDATE", "ACTIVE", [{"status": "PLACED"}])


class TestDdl:
    def test_it_has_no_rows_and_goes_to_partition_0(self) -> None:
        ((partition, message),) = published(Change("CREATE", None, None, binlog.CREATE_TABLE, AT_MS))

        assert (partition, message["isDdl"], message["type"], message["sql"]) == (0, True, "CREATE", binlog.CREATE_TABLE)
        assert [message[name] for name in ("data", "old", "mysqlType", "sqlType", "pkNames")] == [None] * 5
