"""Rule 12 as the audit sees it: each step once, exactly the residue, and slippage from the ledger
alone.
"""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearing.flow.amounts import cut
from clearing.flow.fills import slippage
from clearing.flow.flows import OrderFacts
from clearing.gateways import Exchanged
from ops.audit.facts import Effect, Placed
from ops.audit.steps import badly_exchanged, differences, disordered, doubled, expected_residue, faults_of, lacking, slippage_of

OPEN = Placed("o-1", "1001", "OPEN", "BTC", Decimal("0.05"), Decimal(3000), 0)
CLOSE = Placed("o-2", "1001", "CLOSE", "ETH", Decimal("1.5"), Decimal(4000), 0)


def effects(order: Placed, *keys: str, sold: str = "", bought: str = "") -> list[Effect]:
    """Effects by the rest of their keys; the exchange is step 3."""
    amounts = {"3": (Decimal(sold or 0), Decimal(bought or 0))}
    return [Effect(order.order_id, order.user_id, f"{order.order_id}:{key}", *amounts.get(key[0], (None, None))) for key in keys]


def exchanged(order: Placed, sold: Decimal, bought: Decimal) -> Exchanged:
    """Both amounts at their asset's scale, as the contract has them."""
    sell, buy = ("USDT", order.asset) if order.direction == "OPEN" else (order.asset, "USDT")
    return Exchanged("r", 0, sell, cut(sold, sell), buy, cut(bought, buy), price=Decimal(1), min_lot=Decimal(1))


class TestOnce:
    def test_each_step_once_is_right(self) -> None:
        assert doubled(effects(OPEN, "1", "2", "3", "3.2", "4", sold="1", bought="1")) == []

    @pytest.mark.parametrize("again", ["2", "2:r1", "3.2:r1", "4"])
    def test_a_step_and_part_twice_is_not_whatever_its_revision(self, again: str) -> None:
        applied = effects(OPEN, "1", "2", "3", "3.2", "4", again, sold="1", bought="1")

        assert doubled(applied) == [f"o-1:{again}"]

    @pytest.mark.parametrize("key", ["o-1:5", "o-9:1", "o-1", "o-1:1x"])
    def test_a_key_that_is_none_of_the_order_s_steps_is_told(self, key: str) -> None:
        assert doubled([Effect("o-1", "1001", key)]) == [key]

    def test_order_ids_may_have_colons(self) -> None:
        assert Effect("a:b:1", "1", "a:b:1:3.2:r4").place == (3, 2)

    def test_steps_and_parts_in_their_order_are_right(self) -> None:
        assert disordered(effects(OPEN, "1", "2", "3", "3.2", "4")) == []

    def test_one_after_a_later_one_is_not(self) -> None:
        assert disordered(effects(OPEN, "4", "3", "2", "1")) == ["o-1:3", "o-1:2", "o-1:1"]
        assert disordered(effects(OPEN, "1", "2", "3.2", "3", "4")) == ["o-1:3"]

    def test_what_was_never_applied_is_lacking(self) -> None:
        assert lacking(effects(OPEN, "1", "3", sold="1", bought="1")) == [2, 4]


class TestExchange:
    """All of what the order has is sold, but for less than the market's minimum lot."""

    def found(self, *sold: str, lot: str | None = "0.001") -> list[str]:
        min_lot = None if lot is None else Decimal(lot)
        parts = [Effect("o-2", "1001", f"o-2:3.{n}", Decimal(one), Decimal(1), min_lot) for n, one in enumerate(sold, 1)]
        return badly_exchanged(CLOSE, parts)

    def test_all_of_it_in_parts_is_right(self) -> None:
        assert self.found("1", "0.5") == self.found("1.5", lot=None) == []

    def test_so_is_dust(self) -> None:
        assert self.found("1", "0.4991") == []

    def test_a_lot_left_over_is_not(self) -> None:
        assert self.found("1", "0.499") == ["0.001 of 1.5 wasn't sold, and the market's minimum lot is 0.001"]
        assert len(self.found("1.4999", lot=None)) == 1

    def test_twice_is_not(self) -> None:
        assert self.found("1.5", "1.5") == ["1.5 more than the order's 1.5 was sold"]


class TestResidue:
    def test_an_open_leaves_what_the_design_says(self) -> None:
        applied = effects(OPEN, "1", "2", "3", "4", sold="3000", bought="0.0498")

        assert expected_residue(OPEN, applied) == {
            ("user:1001", "USDT"): Decimal(-3000),
            ("market", "USDT"): Decimal(3000),
            ("market", "BTC"): Decimal("-0.0498"),
            ("counter:contracts", "BTC"): Decimal("0.05"),
            ("system", "BTC"): Decimal("-0.0002"),
        }

    def test_its_usdt_dust_stays_with_fund(self) -> None:
        applied = effects(OPEN, "1", "2", "3", "4", sold="2999.5", bought="0.05")

        residue = expected_residue(OPEN, applied)

        assert residue["fund", "USDT"] == Decimal("0.5")
        assert ("system", "BTC") not in residue

    def test_a_close_leaves_what_the_design_says(self) -> None:
        applied = effects(CLOSE, "1", "2", "3", "4", sold="1.499", bought="4003.25")

        assert expected_residue(CLOSE, applied) == {
            ("counter:contracts", "ETH"): Decimal("-1.5"),
            ("market", "ETH"): Decimal("1.499"),
            ("market", "USDT"): Decimal("-4003.25"),
            ("fund", "ETH"): Decimal("0.001"),
            ("fund", "USDT"): Decimal("3.25"),
            ("user:1001", "USDT"): Decimal(4000),
        }

    def test_parts_of_an_exchange_add_up(self) -> None:
        applied = effects(OPEN, "1", "2", "3", "3.2", "4", sold="1500", bought="0.025")

        assert expected_residue(OPEN, applied)["market", "USDT"] == Decimal(3000)

    def test_differences_name_the_place_and_both_amounts(self) -> None:
        found = differences({("system", "BTC"): Decimal(1)}, {("system", "BTC"): Decimal(2), ("owed:1001", "USDT"): Decimal(5)})

        assert found == ["owed:1001 USDT: 5 instead of 0", "system BTC: 2 instead of 1"]


class TestSlippage:
    @pytest.mark.parametrize("order", [OPEN, CLOSE])
    @given(sold=st.integers(1, 10**6), bought=st.integers(1, 10**12))
    def test_the_ledger_s_is_the_one_that_clearing_computes(self, order: Placed, sold: int, bought: int) -> None:
        whole = order.quoted_usdt if order.direction == "OPEN" else order.quantity
        part = exchanged(order, whole * sold / 10**6, Decimal(bought).scaleb(-6))
        applied = [Effect(order.order_id, order.user_id, f"{order.order_id}:3", part.sold, part.bought)]
        facts = OrderFacts(order.order_id, order.user_id, "c", order.direction, order.asset, order.quantity, order.quoted_usdt)

        assert slippage_of(order, expected_residue(order, applied)) == slippage(facts, [part])

    def test_without_an_exchange_there_is_none(self) -> None:
        assert slippage_of(OPEN, {}) is None


class TestFaults:
    APPLIED = effects(OPEN, "1", "2", "3", "4", sold="3000", bought="0.0498")

    def test_a_right_order_has_none(self) -> None:
        assert faults_of(OPEN, self.APPLIED, expected_residue(OPEN, self.APPLIED), Decimal("-12.00000000")) == []

    def test_nor_has_one_that_the_release_before_has_cleared(self) -> None:
        """It valued coin at the market that the order met."""
        assert faults_of(OPEN, self.APPLIED, expected_residue(OPEN, self.APPLIED), Decimal("-12.04819277")) == []

    def test_another_slippage_is_one(self) -> None:
        faults = faults_of(OPEN, self.APPLIED, expected_residue(OPEN, self.APPLIED), Decimal("-12.00000001"))

        assert faults == ["slippage: -12.00000000 in the ledger, -12.00000001 stored"]

    def test_so_is_a_step_that_never_happened_and_what_it_leaves(self) -> None:
        residue = {("user:1001", "USDT"): Decimal(-3000), ("counter:suspense", "USDT"): Decimal(3000)}

        faults = faults_of(OPEN, [], residue, None)

        assert faults[0] == "step 1 was never applied"
        assert "counter:suspense USDT: 3000 instead of 0" in faults
