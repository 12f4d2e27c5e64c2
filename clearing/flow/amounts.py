"""Amounts at their asset's scale, and sums without rounding. Pure."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from decimal import ROUND_DOWN, Context, Decimal, localcontext
from functools import cache
from typing import Final

from django.conf import settings

USDT: Final = "USDT"
PRECISION: Final = 80  # digits: more than the widest product of two columns has
ZERO: Final = Decimal(0)
_WIDE: Final = Context(prec=PRECISION)


def exact() -> AbstractContextManager[Context, None]:
    """The context for whatever is computed with amounts: an answer may have 36 digits, and the
    default context rounds at 28.
    """
    return localcontext(prec=PRECISION)


def cut(amount: Decimal, asset: str) -> Decimal:
    """The amount at its asset's scale, cut downwards."""
    return amount.quantize(unit(asset), rounding=ROUND_DOWN, context=_WIDE)


def unit(asset: str) -> Decimal:
    """The smallest amount of the asset."""
    return _unit(settings.ASSET_SCALES[asset])


def fits_scale(amount: Decimal, asset: str) -> bool:
    """Whether the asset has as many decimals as the amount."""
    return cut(amount, asset) == amount


def total(amounts: Iterable[Decimal]) -> Decimal:
    """Their sum, exactly."""
    with exact():
        return sum(amounts, ZERO)


@cache
def _unit(scale: int) -> Decimal:
    return Decimal(1).scaleb(-scale)
