"""Exact numbers as text."""

from decimal import Decimal

import pytest

from base.decimals import plain

DIGITS = "123456789012345678901234567890.123456789012345678"  # more than a context's precision


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1.500", "1.5"),
        ("1E+3", "1000"),
        ("1E-18", "0.000000000000000001"),
        ("0E-8", "0"),
        ("0", "0"),
        ("100", "100"),
        ("-1.50", "-1.5"),
        (DIGITS, DIGITS),
    ],
)
def test_every_digit_and_no_other(number: str, text: str) -> None:
    assert plain(Decimal(number)) == text


@pytest.mark.parametrize("same", [["1.5", "1.50", "15E-1"], ["1000", "1E+3", "1000.000"], ["0", "0.000", "0E+9"]])
def test_equal_numbers_are_equal_texts(same: list[str]) -> None:
    assert len({plain(Decimal(number)) for number in same}) == 1
