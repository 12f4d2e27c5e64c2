"""What a fill is worth at the quote, and which ones nobody believes (design, rule 13)."""

from dataclasses import replace
from decimal import Decimal

import pytest
from pytest_django import Settings

from clearing.flow.bookings import DoneOperation, to_make_whole
from clearing.flow.fills import Residue, bought, deviation_bps, doubts, residue, slippage, sold
from clearing.flow.flows import CURRENT_FLOW, Finished, OrderFacts, Planned, after
from clearing.gateways import Action, Exchanged, Transfer

OPEN = OrderFacts("O1", "1001", "C1", "OPEN", "BTC", Decimal("0.05"), Decimal(2500))
CLOSE = OrderFacts("O2", "1001", "C1", "CLOSE", "BTC", Decimal("0.05"), Decimal(2500))
BILLIONS = Decimal("999999999999999999.999999999999999999")


def opened(bought: str, sold: str = "2500", price: str = "50000") -> Exchanged:
    """An OPEN's fill."""
    return Exchanged("x", 1, "USDT", Decimal(sold), "BTC", Decimal(bought), Decimal(price), Decimal(1))


def closed(bought: str, sold: str = "0.05", price: str = "50000") -> Exchanged:
    """A CLOSE's fill."""
    return Exchanged("x", 1, "BTC", Decimal(sold), "USDT", Decimal(bought), Decimal(price), Decimal("0.00001"))


class TestSlippage:
    @pytest.mark.parametrize(
        ("order", "part", "expected"),
        [
            (OPEN, opened("0.05"), "0"),
            (OPEN, opened("0.04"), "-500"),
            (OPEN, opened("0.5"), "22500"),  # nine times the quote: a wrong fill shows at its full size
            (OPEN, opened("0.05", sold="2499.5"), "0.5"),
            (CLOSE, closed("2510"), "10"),
            (CLOSE, closed("0.01"), "-2499.99"),
            (CLOSE, closed("2400", sold="0.04"), "400"),
        ],
    )
    def test_is_what_the_market_gave_beyond_the_quote(self, order: OrderFacts, part: Exchanged, expected: str) -> None:
        assert slippage(order, [part]) == Decimal(expected)

    def test_has_scale_8_and_is_rounded_half_even(self) -> None:
        assert slippage(OPEN, [opened("0.07")]).as_tuple().exponent == -8

    @pytest.mark.parametrize(("order", "part"), [(OPEN, opened("0.04")), (CLOSE, closed("2000"))])
    def test_is_the_deviation_of_the_quote(self, order: OrderFacts, part: Exchanged) -> None:
        assert slippage(order, [part]) == -500
        assert deviation_bps(order, part) == -2_000


class TestResidue:
    def test_says_what_is_missing_in_coin_too(self) -> None:
        assert after(CURRENT_FLOW, OPEN, 4, [opened("0.04")]) == Finished(Residue(Decimal(-500), Decimal("-0.01"), Decimal(0)))

    def test_of_a_close_in_usdt(self) -> None:
        assert residue(CLOSE, [closed("2510")]) == Residue(Decimal(10), Decimal(10), Decimal(0))

    def test_books_the_dust(self) -> None:
        assert residue(OPEN, [opened("0.05", sold="2499.5")]).dust == Decimal("0.5")
        assert residue(CLOSE, [closed("2450", sold="0.049")]).dust == Decimal("0.001")

    def test_that_no_column_can_hold_is_none_and_never_the_nearest_that_fits(self) -> None:
        """`numeric(36, 8)` and `numeric(36, 18)`: the order can be cleared all the same."""
        order = replace(OPEN, quantity=Decimal("0.00000001"))

        assert residue(order, [opened(str(BILLIONS)), opened(str(BILLIONS), sold="0")]) == Residue(None, None, Decimal(0))
        assert residue(OPEN, [opened("999999999999999999.98")]).surplus == Decimal("999999999999999999.93")

    def test_of_an_order_without_a_quote_at_its_scale(self) -> None:
        """Accepted before amounts finer than the scale were refused."""
        order = replace(OPEN, quantity=Decimal("0.000000001"))

        assert doubts(order, opened("0.05"))
        assert residue(order, [opened("0.05")]).slippage_usdt is None


class TestSums:
    """The default context rounds at 28 digits; an answer may have 36."""

    PARTS = (opened("999999999999999999.12345678"), opened("0.00000001"), opened("999999999999999999.00000001"))

    def test_over_all_parts_are_exact(self) -> None:
        assert bought(self.PARTS) == Decimal("1999999999999999998.12345680")
        parts = [opened("1", sold="999999999999999999.000000000000000001"), opened("1", sold="0.000000000000000001")]
        assert sold(parts) == Decimal("999999999999999999.000000000000000002")

    def test_so_are_the_bookings_of_a_void(self) -> None:
        transfers = [Transfer(order_id="O1", asset="BTC", amount=BILLIONS, source="system", destination="fund")] * 2
        done = [DoneOperation(Action.TRANSFER, transfer.encode("k"), b"") for transfer in transfers]

        assert {booking.amount.copy_abs() for booking in to_make_whole(done)} == {Decimal("1999999999999999999.999999999999999998")}


class TestDoubts:
    @pytest.mark.parametrize(
        ("order", "part"),
        [
            (OPEN, opened("0.05")),
            (OPEN, opened("0.04", price="62500")),  # the hard bound itself
            (OPEN, opened("0.06", price="41666.67")),
            (OPEN, opened("0.04167361", price="59990")),
            (CLOSE, closed("2000", price="40000")),
            (CLOSE, closed("3000", price="60000")),
            (OPEN, opened("0.0498", price="50000")),  # a fee of 40 bps
            (OPEN, opened("0.05", price="49999.6")),  # a price that is rounded
            (OPEN, opened("0.00000002", sold="0.001")),  # of so little, rounding is all
            (OPEN, opened("0", sold="0", price="0")),  # nothing was exchanged
        ],
    )
    def test_there_are_none_within_the_bounds(self, order: OrderFacts, part: Exchanged) -> None:
        assert doubts(order, part) == ""

    @pytest.mark.parametrize(
        ("order", "part", "why"),
        [
            (CLOSE, closed("0.01", sold="1"), "that it states"),
            (CLOSE, closed("0.01", price="0.2"), "from the quote"),
            (OPEN, opened("50"), "that it states"),  # its price says 50,000
            (OPEN, opened("50", price="50"), "from the quote"),
            (OPEN, opened("0.0399", price="62656.64"), "from the quote"),
            (OPEN, opened("0.0601", price="41597.33"), "from the quote"),
            (OPEN, opened("0.0497", price="50000"), "that it states"),
            (OPEN, opened("0.05", price="0"), "that it states"),
            (OPEN, opened("0", price="50000"), "that it states"),
            (OPEN, opened("0.050000001"), "decimals"),
            (OPEN, opened("0.05", sold="2500.0000001"), "decimals"),
            (OPEN, opened("5000000"), "that it states"),  # satoshis for coin
            (OPEN, opened("0.05", sold="0"), "that it states"),
            (OPEN, opened(str(BILLIONS)), "decimals"),
        ],
    )
    def test_what_no_market_gives(self, order: OrderFacts, part: Exchanged, why: str) -> None:
        assert why in doubts(order, part)

    def test_an_amount_at_its_scale_may_have_zeros_behind_it(self) -> None:
        assert doubts(OPEN, opened("0.050000000000000000", sold="2500.000000000")) == ""


class TestAfterTheExchange:
    def follows(self, part: Exchanged, order: OrderFacts = OPEN) -> tuple[str, bool]:
        following = after(CURRENT_FLOW, order, 3, [part])
        assert isinstance(following, Planned)
        assert following.step == 4
        return following.parks, following.holds

    def test_it_goes_on_within_the_soft_bound(self) -> None:
        assert self.follows(opened("0.0485", price="51546.39")) == ("", False)

    def test_beyond_it_one_operator_decides(self) -> None:
        assert self.follows(opened("0.0484", price="51652.89")) == ("slippage_exceeded", False)

    def test_of_a_large_order_two(self, settings: Settings) -> None:
        settings.CLEARING_SLIPPAGE_TWO_OPERATORS_USDT = Decimal("2499.99")

        assert self.follows(opened("0.0484", price="51652.89")) == ("slippage_exceeded", True)

    def test_beyond_the_hard_bound_two(self) -> None:
        assert self.follows(opened("0.0399", price="62656.64")) == ("implausible_fill", True)
        assert self.follows(closed("0.01"), CLOSE) == ("implausible_fill", True)

    def test_the_hard_bound_holds_while_the_soft_one_is_off(self, settings: Settings) -> None:
        settings.CLEARING_MAX_SLIPPAGE_BPS = Decimal(0)

        assert self.follows(opened("0.0484", price="51652.89")) == ("", False)
        assert self.follows(opened("0.0399", price="62656.64")) == ("implausible_fill", True)
