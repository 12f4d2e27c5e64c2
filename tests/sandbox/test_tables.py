"""The counter's two tables as reconcile reads them, and orders that go missing from one or from the
stream.
"""

import time
from typing import Any

import pytest

from tests.support.sandbox import SandboxServer


def ask(server: SandboxServer, path: str) -> Any:
    reply = server.call("counter", "GET", path)
    assert reply.status == 200, reply.raw
    return reply.json


def counted(server: SandboxServer, table: str, order: dict[str, Any]) -> int:
    """The exchange rows in the order's shard and minute."""
    minute_ms = order["created_ms"] // 60_000 * 60_000
    found = ask(server, f"/v1/{table}/counts?shard={order['shard']}&from_ms={minute_ms}&to_ms={minute_ms + 60_000}")["minutes"]
    return sum(minute["kinds"].get("EXCHANGE", 0) for minute in found if minute["minute_ms"] == minute_ms)


def row_of(server: SandboxServer, table: str, order: dict[str, Any]) -> dict[str, Any] | None:
    page = ask(server, f"/v1/{table}?shard={order['shard']}&after_ms={order['created_ms'] - 1}&after_id=0")
    found: dict[str, dict[str, Any]] = {row["order_id"]: row for row in page["rows"]}
    return found.get(order["order_id"])


class TestTheTwoTables:
    def test_give_the_same_of_an_order(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = sandbox_server.place(user_id)

        rows = [row_of(sandbox_server, table, order) for table in ("sync-orders", "orders")]

        assert rows[0] is not None
        assert rows[1] == {**rows[0], "id": (rows[1] or {})["id"]}
        assert counted(sandbox_server, "sync-orders", order) == counted(sandbox_server, "orders", order) > 0

    def test_differ_by_what_is_no_order(self, sandbox_server: SandboxServer, user_id: str) -> None:
        misc = sandbox_server.post("/counter/v1/misc-orders", {"user_id": user_id, "kind": "DEPOSIT"}).json
        minute_ms = misc["created_ms"] // 60_000 * 60_000
        window = f"shard={misc['shard']}&from_ms={minute_ms}&to_ms={minute_ms + 60_000}"

        found = [ask(sandbox_server, f"/v1/{table}/counts?{window}")["minutes"] for table in ("sync-orders", "orders")]

        assert found[0][0]["kinds"]["DEPOSIT"] >= 1
        assert not any("DEPOSIT" in minute["kinds"] for minute in found[1])

    def test_count_no_more_than_a_day_at_once(self, sandbox_server: SandboxServer) -> None:
        assert sandbox_server.call("counter", "GET", "/v1/orders/counts?shard=0&from_ms=0&to_ms=86400001").status == 400


class TestAnOrderWithoutItsSyncRow:
    @pytest.fixture
    def order(self, sandbox_server: SandboxServer, user_id: str) -> dict[str, Any]:
        sandbox_server.set_fault(kind="no_sync_row", counterparty="counter", operation="place", count=1)
        return sandbox_server.place(user_id)

    def test_is_in_the_order_table_alone(self, sandbox_server: SandboxServer, order: dict[str, Any]) -> None:
        assert row_of(sandbox_server, "sync-orders", order) is None
        assert (row_of(sandbox_server, "orders", order) or {})["contract_id"] == order["contract_id"]

    def test_does_not_lend_its_number_to_the_next(self, sandbox_server: SandboxServer, order: dict[str, Any], user_id: str) -> None:
        following = sandbox_server.place(user_id)

        assert following["order_id"] != order["order_id"]
        assert int(following["sequence"]) == int(order["sequence"]) + 1


class TestAnOrderThatIsNotStreamed:
    def test_is_in_both_tables(self, sandbox_server: SandboxServer, user_id: str) -> None:
        sandbox_server.set_fault(kind="not_streamed", counterparty="counter", operation="place", count=1)

        order = sandbox_server.place(user_id)

        assert all(row_of(sandbox_server, table, order) for table in ("sync-orders", "orders"))


class TestFaultsOfOtherOperations:
    def test_do_not_befall_placing(self, sandbox_server: SandboxServer, user_id: str) -> None:
        sandbox_server.set_fault(kind="status", status=500, operation="*")

        assert sandbox_server.place(user_id)["created_ms"] <= time.time() * 1000 + 1
        assert sandbox_server.open_page("/sandbox/faults")["faults"][0]["hits"] == 0
