"""Users: quotes, orders, contracts, and the sync-order rows that they leave."""

from decimal import Decimal
from typing import Any

import pytest

from tests.sandbox.steps import order_of
from tests.support.sandbox import SandboxServer


def quote(server: SandboxServer, user_id: str, direction: str, quantity: str = "0.1", asset: str = "BTC") -> dict[str, Any]:
    fields = {"user_id": user_id, "direction": direction, "asset": asset, "quantity": quantity}
    reply = server.post("/counter/v1/quotes", fields)
    assert reply.status == 200, reply.raw
    return dict(reply.json)


def sync_rows(server: SandboxServer, shard: int, limit: int = 1000) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    position: dict[str, Any] | None = {"ms": 0, "id": "0"}
    while position is not None:
        target = f"/v1/sync-orders?shard={shard}&after_ms={position['ms']}&after_id={position['id']}&limit={limit}"
        page = server.call("counter", "GET", target).json
        rows += page["rows"]
        position = page["next"]
    return rows


class TestQuote:
    def test_who_opens_pays_the_spread_and_who_closes_gets_less(self, sandbox_server: SandboxServer, user_id: str) -> None:
        opening, closing = (Decimal(quote(sandbox_server, user_id, direction)["price"]) for direction in ("OPEN", "CLOSE"))
        market = Decimal(sandbox_server.call("fund", "GET", "/v1/prices?asset=BTC").json["price"])

        assert closing < market < opening

    def test_an_order_takes_the_quoted_price(self, sandbox_server: SandboxServer, user_id: str) -> None:
        quoted = quote(sandbox_server, user_id, "OPEN")

        placed = sandbox_server.place(user_id, quantity="0.1", quote_id=quoted["quote_id"])

        assert placed["usdt"] == quoted["usdt"]

    def test_it_belongs_to_its_user(self, sandbox_server: SandboxServer, user_id: str) -> None:
        quoted = quote(sandbox_server, user_id, "OPEN")

        fields = {"user_id": user_id + "1", "direction": "OPEN", "asset": "BTC", "quantity": "0.1", "quote_id": quoted["quote_id"]}
        reply = sandbox_server.post("/counter/v1/orders", fields)

        assert (reply.status, reply.json["code"]) == (400, "quote_unknown")


class TestOrder:
    def test_a_close_closes_the_oldest_open_contract_whole(self, sandbox_server: SandboxServer, user_id: str) -> None:
        first, second = (order_of(sandbox_server, user_id, quantity=quantity) for quantity in ("0.01", "0.02"))

        closings = [order_of(sandbox_server, user_id, "CLOSE") for _ in range(2)]

        assert [closing["contract_id"] for closing in closings] == [first["contract_id"], second["contract_id"]]
        assert [closing["quantity"] for closing in closings] == ["0.01000000", "0.02000000"]

    def test_a_named_contract_is_closed_instead(self, sandbox_server: SandboxServer, user_id: str) -> None:
        _, second = (order_of(sandbox_server, user_id) for _ in range(2))

        closing = sandbox_server.place(user_id, "CLOSE", contract_id=second["contract_id"])

        assert closing["contract_id"] == second["contract_id"]

    def test_nothing_open_means_nothing_to_close(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order_of(sandbox_server, user_id)
        order_of(sandbox_server, user_id, "CLOSE")

        reply = sandbox_server.post("/counter/v1/orders", {"user_id": user_id, "direction": "CLOSE", "asset": "BTC"})

        assert (reply.status, reply.json["code"]) == (409, "no_open_contract")

    def test_nobody_pays_more_than_they_have(self, sandbox_server: SandboxServer, user_id: str) -> None:
        reply = sandbox_server.post("/counter/v1/orders", {"user_id": user_id, "direction": "OPEN", "asset": "BTC", "quantity": "9999999"})

        assert (reply.status, reply.json["code"]) == (400, "insufficient_funds")
        assert not [row for shard in range(4) for row in sync_rows(sandbox_server, shard) if row["user_id"] == user_id]

    @pytest.mark.parametrize(
        "change", [{"user_id": "0"}, {"user_id": str(2**64)}, {"asset": "USDT"}, {"quantity": None}, {"quantity": "0.000000001"}, {"note": "x"}]
    )
    def test_what_makes_no_sense_is_refused(self, sandbox_server: SandboxServer, user_id: str, change: dict[str, Any]) -> None:
        fields = {"user_id": user_id, "direction": "OPEN", "asset": "BTC", "quantity": "0.1", **change}

        assert sandbox_server.post("/counter/v1/orders", fields).status == 400

    def test_the_largest_user_id_has_a_row_too(self, sandbox_server: SandboxServer) -> None:
        placed = order_of(sandbox_server, str(2**64 - 1))

        (row,) = [row for row in sync_rows(sandbox_server, placed["shard"]) if row["user_id"] == str(2**64 - 1)]
        assert row["order_id"] == placed["order_id"]


class TestSyncOrders:
    def test_a_row_says_what_was_placed(self, sandbox_server: SandboxServer, user_id: str) -> None:
        placed = order_of(sandbox_server, user_id, "OPEN", "ETH", "1.5")

        (row,) = [row for row in sync_rows(sandbox_server, placed["shard"]) if row["order_id"] == placed["order_id"]]

        assert row["quantity"] == "1.500000000000000000"
        assert Decimal(row["quoted_usdt"]) == Decimal(placed["usdt"])
        names = ("user_id", "kind", "direction", "asset", "contract_id", "created_ms", "sequence", "shard")
        assert [row[name] for name in names] == [
            *(user_id, "EXCHANGE", "OPEN", "ETH"),
            *(placed["contract_id"], placed["created_ms"], placed["sequence"], placed["shard"]),
        ]

    def test_a_users_orders_keep_their_order(self, sandbox_server: SandboxServer, user_id: str) -> None:
        placed = [order_of(sandbox_server, user_id) for _ in range(20)]

        positions = [(order["created_ms"], order["shard"], int(order["sequence"])) for order in placed]

        assert positions == sorted(set(positions))

    @pytest.mark.parametrize("limit", [1, 3, 1000])
    def test_pages_give_every_row_once_and_in_order(self, sandbox_server: SandboxServer, user_id: str, limit: int) -> None:
        placed = [order_of(sandbox_server, user_id) for _ in range(10)]

        rows = sync_rows(sandbox_server, placed[0]["shard"], limit=limit)

        positions = [(row["created_ms"], int(row["id"])) for row in rows]
        assert positions == sorted(set(positions))
        assert {order["order_id"] for order in placed} <= {row["order_id"] for row in rows}

    def test_what_is_no_exchange_is_served_too(self, sandbox_server: SandboxServer, user_id: str) -> None:
        kinds = ["DEPOSIT", "WITHDRAW", "FEE"]

        placed = [sandbox_server.post("/counter/v1/misc-orders", {"user_id": user_id, "kind": kind}).json for kind in kinds]

        rows = [row for row in sync_rows(sandbox_server, placed[0]["shard"]) if row["user_id"] == user_id]
        assert [(row["kind"], row["direction"], row["contract_id"]) for row in rows] == [(kind, None, None) for kind in kinds]
        assert sandbox_server.open_page("/sandbox/balance")["balanced"]

    def test_the_shards_are_listed(self, sandbox_server: SandboxServer) -> None:
        assert sandbox_server.call("counter", "GET", "/v1/shards").json["shards"] == [0, 1, 2, 3]

    @pytest.mark.parametrize("query", ["", "?shard=9", "?shard=x", "?shard=0&limit=0", "?shard=0&limit=1001", "?shard=0&after_ms=-1"])
    def test_a_question_that_makes_no_sense_is_refused(self, sandbox_server: SandboxServer, query: str) -> None:
        reply = sandbox_server.call("counter", "GET", f"/v1/sync-orders{query}")

        assert (reply.status, reply.json["code"]) == (400, "invalid_request")


class TestBatch:
    def test_all_orders_are_placed_in_order(self, sandbox_server: SandboxServer, user_id: str) -> None:
        orders = [{"direction": "OPEN", "asset": "BTC", "quantity": "0.01"}] * 3 + [{"direction": "CLOSE", "asset": "BTC"}]

        placed = sandbox_server.post("/counter/v1/orders/batch", {"user_id": user_id, "orders": orders}).json["orders"]

        sequences = [int(order["sequence"]) for order in placed]
        assert sequences == list(range(sequences[0], sequences[0] + 4))
        assert placed[3]["contract_id"] == placed[0]["contract_id"]

    def test_one_that_can_not_be_undoes_them_all(self, sandbox_server: SandboxServer, user_id: str) -> None:
        orders = [{"direction": "OPEN", "asset": "BTC", "quantity": "0.01"}, {"direction": "CLOSE", "asset": "ETH"}]

        reply = sandbox_server.post("/counter/v1/orders/batch", {"user_id": user_id, "orders": orders})

        assert reply.status == 409
        assert not [row for shard in range(4) for row in sync_rows(sandbox_server, shard) if row["user_id"] == user_id]

    @pytest.mark.parametrize("count", [0, 301])
    def test_a_batch_is_neither_empty_nor_huge(self, sandbox_server: SandboxServer, user_id: str, count: int) -> None:
        orders = [{"direction": "OPEN", "asset": "BTC", "quantity": "0.01"}] * count

        assert sandbox_server.post("/counter/v1/orders/batch", {"user_id": user_id, "orders": orders}).status == 400


class TestOrderTable:
    def test_it_lists_every_exchange_order(self, sandbox_server: SandboxServer, user_id: str) -> None:
        placed = [order_of(sandbox_server, user_id) for _ in range(3)]

        listed: list[str] = []
        after: str | None = "0"
        while after is not None:
            page = sandbox_server.open_page(f"/sandbox/orders?after_id={after}&limit=7")
            listed += [row["order_id"] for row in page["rows"]]
            after = page["next"]

        assert len(listed) == len(set(listed))
        assert {order["order_id"] for order in placed} <= set(listed)
