"""The business, as flows.py has it: requests, parts of an exchange, slippage."""

import json
from decimal import Decimal

import pytest

from clearing.flow.flows import CURRENT_FLOW, FLOWS, OrderFacts, Parks, Planned, after, key_of, plan
from clearing.gateways import Action, Counterparty, Exchanged

OPEN = OrderFacts("O1", "1001", "C1", "OPEN", "BTC", Decimal("0.05"), Decimal(2500))
CLOSE = OrderFacts("O2", "1001", "C1", "CLOSE", "BTC", Decimal("0.05"), Decimal(2500))


def exchanged(sold: str, bought: str, *, sell: str = "USDT", buy: str = "BTC", lot: str = "1", price: str = "50000") -> Exchanged:
    return Exchanged(
        reference="x",
        done_at_ms=1,
        sell_asset=sell,
        sold=Decimal(sold),
        buy_asset=buy,
        bought=Decimal(bought),
        price=Decimal(price),
        min_lot=Decimal(lot),
    )


def request(order: OrderFacts, step: int, *parts: Exchanged) -> dict[str, str]:
    body: dict[str, str] = json.loads(plan(CURRENT_FLOW, order, step, parts).request)
    return body


class TestFlow:
    @pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
    def test_the_four_steps_call_counter_fund_trading_fund(self, direction: str) -> None:
        steps = FLOWS[CURRENT_FLOW][direction]

        assert [step.counterparty for step in steps] == [Counterparty.COUNTER, Counterparty.FUND, Counterparty.TRADING, Counterparty.FUND]
        assert [step.action for step in steps] == [Action.ADJUST, Action.TRANSFER, Action.EXCHANGE, Action.TRANSFER]

    def test_an_open_moves_usdt_to_fund_and_the_coin_bought_back(self) -> None:
        part = exchanged("2500", "0.0499")

        assert request(OPEN, 2) | {"key": ""} == {
            "key": "",
            "order_id": "O1",
            "asset": "USDT",
            "amount": "2500",
            "source": "system",
            "destination": "fund",
        }
        assert (request(OPEN, 3)["sell_asset"], request(OPEN, 3)["sell_amount"]) == ("USDT", "2500")
        assert (request(OPEN, 4, part)["asset"], request(OPEN, 4, part)["amount"]) == ("BTC", "0.0499")

    def test_a_close_moves_the_coin_to_fund_and_the_quoted_usdt_to_the_user(self) -> None:
        part = exchanged("0.05", "2510", sell="BTC", buy="USDT", lot="0.0001")

        assert (request(CLOSE, 2)["asset"], request(CLOSE, 2)["amount"]) == ("BTC", "0.05")
        assert (request(CLOSE, 3)["sell_asset"], request(CLOSE, 3)["buy_asset"]) == ("BTC", "USDT")
        assert (request(CLOSE, 4, part)["destination"], request(CLOSE, 4, part)["amount"]) == ("user:1001", "2500")

    def test_amounts_are_cut_downwards_to_the_scale_of_their_asset(self) -> None:
        order = OrderFacts("O3", "1", "C", "OPEN", "BTC", Decimal("0.123456789"), Decimal("10.1234569"))

        body = request(order, 1)

        assert (body["quantity"], body["usdt"]) == ("0.12345678", "10.123456")


class TestKeys:
    @pytest.mark.parametrize(
        ("step", "part", "revision", "key"), [(1, 1, 0, "O1:1"), (3, 2, 0, "O1:3.2"), (2, 1, 1, "O1:2:r1"), (3, 3, 2, "O1:3.3:r2")]
    )
    def test_a_key_names_order_step_part_and_revision(self, step: int, part: int, revision: int, key: str) -> None:
        assert key_of("O1", step, part, revision) == key


class TestPartialExecution:
    def test_the_remainder_is_sold_by_a_further_part(self) -> None:
        following = after(CURRENT_FLOW, OPEN, 3, [exchanged("1500", "0.03")], part=1)

        assert isinstance(following, Planned)
        assert (following.key, json.loads(following.request)["sell_amount"]) == ("O1:3.2", "1000")

    def test_after_three_parts_the_order_parks(self) -> None:
        parts = [exchanged("1000", "0.02"), exchanged("100", "0.002"), exchanged("100", "0.002")]

        assert after(CURRENT_FLOW, OPEN, 3, parts, part=3) == Parks("partial_execution")

    def test_dust_below_the_lot_goes_on(self) -> None:
        following = after(CURRENT_FLOW, OPEN, 3, [exchanged("2499.5", "0.05")], part=1)

        assert isinstance(following, Planned)
        assert following.step == 4

    def test_an_exchange_that_bought_nothing_parks(self) -> None:
        assert after(CURRENT_FLOW, OPEN, 3, [exchanged("0", "0", lot="5000")], part=1) == Parks("partial_execution")

    def test_a_remainder_of_just_the_lot_is_sold(self) -> None:
        following = after(CURRENT_FLOW, OPEN, 3, [exchanged("2499", "0.05")], part=1)

        assert isinstance(following, Planned)
        assert following.key == "O1:3.2"

    def test_an_implausible_part_parks_before_the_next_one(self) -> None:
        following = after(CURRENT_FLOW, OPEN, 3, [exchanged("1500", "0.3", price="5000")], part=1)

        assert isinstance(following, Planned)
        assert (following.key, following.parks, following.holds) == ("O1:3.2", "implausible_fill", True)

    def test_and_where_no_part_may_follow(self) -> None:
        parts = [exchanged("1000", "0.02"), exchanged("100", "0.002"), exchanged("100", "0.2", price="500")]

        assert after(CURRENT_FLOW, OPEN, 3, parts, part=3) == Parks("implausible_fill", holds=True)
