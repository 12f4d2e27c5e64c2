"""Assets, their scales, and amounts as they travel: decimal strings, cut downwards to the asset's
scale.
"""

import re
from decimal import ROUND_DOWN, Decimal

from sandbox.problems import Rejection

SCALES = {"USDT": 6, "BTC": 8, "ETH": 8}
COINS = ("BTC", "ETH")
AMOUNT = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?", re.ASCII)
_QUANTA = {asset: Decimal(1).scaleb(-scale) for asset, scale in SCALES.items()}


def cut(amount: Decimal, asset: str) -> Decimal:
    """The amount without what lies below the asset's scale."""
    return amount.quantize(_QUANTA[asset], rounding=ROUND_DOWN)


def text(amount: Decimal) -> str:
    """Plain digits, never an exponent; zeros to the asset's scale stay, as an amount was cut."""
    return format(amount, "f")


def amount_of(value: str, asset: str) -> Decimal:
    """A positive amount that fits the asset's scale; otherwise a final rejection
    (`amount_invalid`).
    """
    if AMOUNT.fullmatch(value) is None:
        raise Rejection(400, "amount_invalid", f"{value!r} is not a decimal string of at most 18 digits on either side of the point")
    amount = Decimal(value)
    fitting = cut(amount, asset)
    if fitting != amount or not fitting:
        raise Rejection(400, "amount_invalid", f"{value} {asset} must be positive and have at most {SCALES[asset]} decimals")
    return fitting


def known_asset(asset: str) -> str:
    if asset not in SCALES:
        raise Rejection(400, "invalid_request", f"{asset!r} is not an asset: use one of {', '.join(SCALES)}")
    return asset


def known_coin(asset: str) -> str:
    if asset not in COINS:
        raise Rejection(400, "invalid_request", f"{asset!r} is not a coin: use one of {', '.join(COINS)}")
    return asset
