"""Sums of the ledger as text: the audit compares them with ours to the last digit."""

from decimal import Decimal

import pytest

from sandbox.control import _plain


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("12345678901234567890123456789.12345678", "12345678901234567890123456789.12345678"),
        ("1.500", "1.5"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("0.00", "0"),
    ],
)
def test_keep_every_digit(amount: str, text: str) -> None:
    assert _plain(Decimal(amount)) == text
