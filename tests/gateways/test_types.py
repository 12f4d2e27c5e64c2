import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearing.gateways import Adjustment, Exchange, Transfer, UnknownOutcome


def transfer(amount: Decimal) -> Transfer:
    return Transfer(order_id="O1", asset="USDT", amount=amount, source="system", destination="user:1001")


class TestEncode:
    def test_an_adjustment(self) -> None:
        adjustment = Adjustment(
            order_id="O1", user_id="1001", contract_id="C1", direction="OPEN", asset="BTC", quantity=Decimal("0.05"), usdt=Decimal("3050.12")
        )

        assert adjustment.encode("O1:1") == (
            b'{"key":"O1:1","order_id":"O1","user_id":"1001","contract_id":"C1","direction":"OPEN","asset":"BTC","quantity":"0.05","usdt":"3050.12"}'
        )

    def test_a_transfer(self) -> None:
        assert transfer(Decimal("3050.12")).encode("O1:4") == (
            b'{"key":"O1:4","order_id":"O1","asset":"USDT","amount":"3050.12","source":"system","destination":"user:1001"}'
        )

    def test_an_exchange(self) -> None:
        exchange = Exchange(order_id="O1", sell_asset="USDT", sell_amount=Decimal(100), buy_asset="BTC")

        assert exchange.encode("O1:3.2:r1") == b'{"key":"O1:3.2:r1","order_id":"O1","sell_asset":"USDT","sell_amount":"100","buy_asset":"BTC"}'

    @pytest.mark.parametrize(
        ("amount", "text"),
        [
            ("1E+2", "100"),
            ("1E-8", "0.00000001"),
            ("0.0500", "0.05"),
            ("100", "100"),
            ("100.00", "100"),
            ("0E-8", "0"),
            ("-0", "0"),
            ("999999999999999999.999999999999999999", "999999999999999999.999999999999999999"),
        ],
    )
    def test_writes_amounts_plainly(self, amount: str, text: str) -> None:
        assert json.loads(transfer(Decimal(amount)).encode("k"))["amount"] == text

    @pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "-1", "-0.00000001"])
    def test_refuses_what_isnt_an_amount(self, amount: str) -> None:
        with pytest.raises(ValueError, match="is not an amount"):
            transfer(Decimal(amount)).encode("k")

    @given(st.decimals(min_value=0, max_value=10**18, allow_nan=False, allow_infinity=False), st.integers(0, 12))
    def test_equal_amounts_are_equal_bytes_and_nothing_is_lost(self, amount: Decimal, zeros: int) -> None:
        padded = Decimal(f"{amount.copy_abs():f}" + ("0" * zeros if "." in f"{amount:f}" else "." + "0" * (zeros + 1)))

        encoded = transfer(amount).encode("k")

        assert encoded == transfer(padded).encode("k")
        assert Decimal(json.loads(encoded)["amount"]) == amount


def test_a_megabyte_of_a_counterpartys_words_is_cut() -> None:
    assert len(str(UnknownOutcome("status_500", "x" * 1_000_000))) < 2_100
