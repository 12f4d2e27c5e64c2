"""Both flows through HTTP, and the residue that they leave: the design's section 2, exactly."""

from decimal import Decimal
from typing import Any

import pytest

from tests.sandbox.steps import adjust, clear, exchange, order_of, transfer
from tests.support.sandbox import SandboxServer


def residue_of(server: SandboxServer, order: dict[str, Any]) -> dict[str, Decimal]:
    after = ""
    while True:
        page = server.open_page(f"/sandbox/residues?after={after}&limit=50")
        for row in page["rows"]:
            if row["order_id"] == order["order_id"]:
                return {place: Decimal(amount) for place, amount in row["residue"].items()}
        assert page["next"], "the order isn't among the residues"
        after = page["next"]


@pytest.mark.parametrize("asset", ["BTC", "ETH"])
class TestOpen:
    def test_a_cleared_order_leaves_exactly_its_residue(self, sandbox_server: SandboxServer, user_id: str, asset: str) -> None:
        order = order_of(sandbox_server, user_id, "OPEN", asset, "0.05")

        deal = clear(sandbox_server, order)

        usdt, quantity, bought = Decimal(order["usdt"]), Decimal(order["quantity"]), Decimal(deal["bought"])
        assert residue_of(sandbox_server, order) == {
            f"user:{user_id}|USDT": -usdt,
            "market|USDT": usdt,
            f"market|{asset}": -bought,
            f"counter:contracts|{asset}": quantity,
            f"system|{asset}": bought - quantity,
        }

    def test_a_placed_order_has_only_taken_the_users_usdt(self, sandbox_server: SandboxServer, user_id: str, asset: str) -> None:
        order = order_of(sandbox_server, user_id, "OPEN", asset)

        usdt = Decimal(order["usdt"])
        assert residue_of(sandbox_server, order) == {f"user:{user_id}|USDT": -usdt, "counter:suspense|USDT": usdt}


@pytest.mark.parametrize("asset", ["BTC", "ETH"])
class TestClose:
    def test_a_cleared_order_leaves_exactly_its_residue(self, sandbox_server: SandboxServer, user_id: str, asset: str) -> None:
        order_of(sandbox_server, user_id, "OPEN", asset, "0.07")
        closing = order_of(sandbox_server, user_id, "CLOSE", asset)

        deal = clear(sandbox_server, closing)

        usdt, quantity, got = Decimal(closing["usdt"]), Decimal("0.07"), Decimal(deal["bought"])
        assert residue_of(sandbox_server, closing) == {
            f"counter:contracts|{asset}": -quantity,
            f"market|{asset}": quantity,
            "market|USDT": -got,
            f"user:{user_id}|USDT": usdt,
            "fund|USDT": got - usdt,
        }

    def test_after_step_1_the_quoted_usdt_is_owed(self, sandbox_server: SandboxServer, user_id: str, asset: str) -> None:
        order_of(sandbox_server, user_id, "OPEN", asset)
        closing = order_of(sandbox_server, user_id, "CLOSE", asset)

        adjust(sandbox_server, closing)

        assert residue_of(sandbox_server, closing)[f"owed:{user_id}|USDT"] == Decimal(closing["usdt"])


class TestLedger:
    def test_it_balances_whatever_happened(self, sandbox_server: SandboxServer, user_id: str) -> None:
        clear(sandbox_server, order_of(sandbox_server, user_id))

        balance = sandbox_server.open_page("/sandbox/balance")

        assert balance == {"balanced": True, "sums": {"USDT": "0", "BTC": "0", "ETH": "0"}}

    def test_it_shows_every_posting_with_its_key(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        clear(sandbox_server, order)

        postings = sandbox_server.open_page(f"/sandbox/ledger?order_id={order['order_id']}")["postings"]

        assert [posting["key"] for posting in postings[::2]] == [
            None,
            *(f"{order['order_id']}:{step}" for step in ("1", "1", "2", "3", "3", "4")),
        ]

    def test_a_step_done_twice_shows_in_the_residue_and_among_the_operations(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        clear(sandbox_server, order)

        adjust(sandbox_server, order, key=f"{order['order_id']}:1:r2")

        assert "counter:suspense|USDT" in residue_of(sandbox_server, order)
        done = [row for row in all_operations(sandbox_server) if row["order_id"] == order["order_id"]]
        assert [row["operation"] for row in done] == ["adjust", "transfer", "exchange", "transfer", "adjust"]
        assert {row["user_id"] for row in done} == {user_id}


class TestRefusals:
    def test_an_adjustment_of_an_order_nobody_placed(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = {**order_of(sandbox_server, user_id), "order_id": "O0"}

        reply = adjust(sandbox_server, order)

        assert (reply.status, reply.json["code"]) == (400, "order_unknown")

    def test_an_adjustment_over_another_amount(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = {**order_of(sandbox_server, user_id), "quantity": "0.06"}

        reply = adjust(sandbox_server, order)

        assert (reply.status, reply.json["code"]) == (400, "amount_invalid")

    @pytest.mark.parametrize(
        ("amount", "destination", "status", "code"),
        [
            ("1.0000001", "fund", 400, "amount_invalid"),
            ("0", "fund", 400, "amount_invalid"),
            ("-1", "fund", 400, "amount_invalid"),
            ("1e3", "fund", 400, "amount_invalid"),
            ("99999999999999", "fund", 400, "insufficient_funds"),
            ("1", "user:999999999", 404, "account_unknown"),
            ("1", "market", 400, "invalid_request"),
            ("1", "system", 400, "invalid_request"),
        ],
    )
    def test_a_transfer_that_can_not_be(
        self, sandbox_server: SandboxServer, user_id: str, amount: str, destination: str, status: int, code: str
    ) -> None:
        order = order_of(sandbox_server, user_id)

        reply = transfer(sandbox_server, order, "2", "USDT", amount, "system", destination)

        assert (reply.status, reply.json["code"], reply.headers["content-type"]) == (status, code, "application/problem+json")

    def test_an_exchange_below_the_minimum_lot(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)

        reply = exchange(sandbox_server, order, "BTC", "0.00000001", "USDT")

        assert (reply.status, reply.json["code"]) == (400, "below_min_lot")

    def test_an_exchange_of_one_coin_for_another(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)

        reply = exchange(sandbox_server, order, "BTC", "0.5", "ETH")

        assert (reply.status, reply.json["code"]) == (400, "invalid_request")


def all_operations(server: SandboxServer) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: str | None = "0"
    while after is not None:
        page = server.open_page(f"/sandbox/operations?after_id={after}&limit=100")
        rows += page["rows"]
        after = page["next"]
    return rows
