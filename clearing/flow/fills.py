"""What the market's fills are worth at the quote, and whether they can be believed (design, rule
13). Pure.

A fill is held against three things: the scale of its assets, the price that its own answer states,
and the order's quote. Coin is valued at the quote in both directions, so that a wrong fill shows at
its full size: an OPEN that got ten times the coin reads as nine times the quote.

    within the soft bound      goes on
    beyond CLEARING_MAX_SLIPPAGE_BPS, all parts together       slippage_exceeded
    beyond CLEARING_HARD_SLIPPAGE_BPS, or not what it says of itself    implausible_fill
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, Protocol

from django.conf import settings

from clearing.flow.amounts import USDT, ZERO, cut, exact, fits_scale, total, unit
from clearing.gateways import Exchanged

SLIPPAGE_UNIT: Final = Decimal("0.00000001")
BPS: Final = 10_000
STORABLE_USDT: Final = Decimal(10) ** 28  # numeric(36, 8)
STORABLE_AMOUNT: Final = Decimal(10) ** 18  # numeric(36, 18)


class Quoted(Protocol):
    """What a fill is compared with: an order's direction and quote."""

    @property
    def direction(self) -> str: ...
    @property
    def asset(self) -> str: ...
    @property
    def quantity(self) -> Decimal: ...
    @property
    def quoted_usdt(self) -> Decimal: ...


@dataclass(frozen=True, slots=True)
class Residue:
    """What an order leaves with the exchange, as it is stored; None for what no column can hold.

    `slippage_usdt`: at the quote, scale 8. `surplus`: in the asset bought, without any valuation:
    of an OPEN the coin bought less the coin owed, of a CLOSE the USDT got less the USDT paid.
    `dust`: what wasn't sold, in the asset sold; it stays in the fund's account.
    """

    slippage_usdt: Decimal | None
    surplus: Decimal | None = ZERO
    dust: Decimal | None = ZERO


def sell_amount(order: Quoted) -> Decimal:
    """What the exchange has to sell in all: of an OPEN the quoted USDT, of a CLOSE the coin."""
    return cut(order.quoted_usdt, USDT) if order.direction == "OPEN" else cut(order.quantity, order.asset)


def sold(parts: Sequence[Exchanged]) -> Decimal:
    """What the exchange has sold over all parts."""
    return total(part.sold for part in parts)


def bought(parts: Sequence[Exchanged]) -> Decimal:
    """What the exchange has bought over all parts, at the asset's scale."""
    return total(cut(part.bought, part.buy_asset) for part in parts)


def unsold(order: Quoted, parts: Sequence[Exchanged]) -> Decimal:
    """What is still to be sold, at the asset's scale."""
    with exact():
        rest = sell_amount(order) - sold(parts)
    return cut(rest, parts[-1].sell_asset) if parts else rest


def at_quote(order: Quoted, amount: Decimal, asset: str) -> Decimal:
    """The amount's value in USDT at the order's quote."""
    with exact():
        return amount if asset == USDT else amount * cut(order.quoted_usdt, USDT) / cut(order.quantity, order.asset)


def gain(order: Quoted, parts: Sequence[Exchanged]) -> Decimal:
    """What was bought less what was sold for it, in USDT at the quote, exactly."""
    with exact():
        got = sum((at_quote(order, cut(part.bought, part.buy_asset), part.buy_asset) for part in parts), ZERO)
        return got - sum((at_quote(order, part.sold, part.sell_asset) for part in parts), ZERO)


def slippage(order: Quoted, parts: Sequence[Exchanged]) -> Decimal:
    """What the exchange gained (positive) or lost by the market's move, in USDT at the quote, scale
    8, half-even. What wasn't sold is no loss: it is dust.
    """
    with exact():
        return gain(order, parts).quantize(SLIPPAGE_UNIT, rounding=ROUND_HALF_EVEN)


def residue(order: Quoted, parts: Sequence[Exchanged]) -> Residue:
    """What the order leaves once all is done."""
    owed = cut(order.quantity, order.asset) if order.direction == "OPEN" else cut(order.quoted_usdt, USDT)
    with exact():
        surplus = bought(parts) - owed
    slippage_usdt = _storable(slippage(order, parts), STORABLE_USDT) if _has_quote(order) else None
    return Residue(slippage_usdt, _storable(surplus, STORABLE_AMOUNT), _storable(unsold(order, parts), STORABLE_AMOUNT))


def _storable(amount: Decimal, bound: Decimal) -> Decimal | None:
    """None, and not the nearest amount that fits: nothing is cut to fit in silence."""
    return amount if amount.copy_abs() < bound else None


def exceeds_slippage(order: Quoted, parts: Sequence[Exchanged]) -> bool:
    """Whether all parts together lie outside CLEARING_MAX_SLIPPAGE_BPS of the quote, on either
    side; never while that is 0.
    """
    limit = settings.CLEARING_MAX_SLIPPAGE_BPS
    with exact():
        return bool(limit) and abs(gain(order, parts)) * BPS > limit * cut(order.quoted_usdt, USDT)


def deviation_bps(order: Quoted, part: Exchanged) -> Decimal | None:
    """How much more (or less, negative) than by the quote was bought, in hundredths of a percent;
    None where the quote or what was sold is nothing.
    """
    if not _has_quote(order) or not part.sold:
        return None
    with exact():
        return gain(order, [part]) * BPS / at_quote(order, part.sold, part.sell_asset)


def doubts(order: Quoted, part: Exchanged) -> str:
    """Why a fill can't be believed, in words; empty where it can."""
    if not part.sold and not part.bought:
        return ""  # nothing was exchanged: there is no price to judge
    for amount, asset in ((part.sold, part.sell_asset), (part.bought, part.buy_asset)):
        if not fits_scale(amount, asset):
            return f"{amount:f} {asset} has more decimals than {asset} has"
    if not _agrees_with_its_price(part):
        return f"{part.sold:f} {part.sell_asset} for {part.bought:f} {part.buy_asset} isn't the price of {part.price:f} that it states"
    if not _is_near_the_quote(order, part):
        return f"its price is more than {settings.CLEARING_HARD_SLIPPAGE_BPS.normalize():f} bps from the quote"
    return ""


def _agrees_with_its_price(part: Exchanged) -> bool:
    """Within the rounding of all three numbers and a fee. The price may be off by one unit of its
    last digit, whether it was rounded or cut.
    """
    usdt, coin, asset = (part.sold, part.bought, part.buy_asset) if part.sell_asset == USDT else (part.bought, part.sold, part.sell_asset)
    exponent = part.price.as_tuple().exponent
    with exact():
        step = Decimal(1).scaleb(exponent) if isinstance(exponent, int) else ZERO
        rounding = unit(USDT) + unit(asset) * (part.price + step) + step * coin
        fee = part.price * coin * settings.CLEARING_FILL_FEE_MAX_BPS / BPS
        return bool(part.price) and abs(usdt - part.price * coin) <= rounding + fee


def _is_near_the_quote(order: Quoted, part: Exchanged) -> bool:
    if not _has_quote(order):
        return False
    with exact():
        rounding = at_quote(order, unit(part.buy_asset), part.buy_asset) + at_quote(order, unit(part.sell_asset), part.sell_asset)
        bound = at_quote(order, part.sold, part.sell_asset) * settings.CLEARING_HARD_SLIPPAGE_BPS / BPS
        return abs(gain(order, [part])) <= bound + rounding


def _has_quote(order: Quoted) -> bool:
    """Orders that were accepted before amounts finer than the scale were refused may have none."""
    return bool(cut(order.quantity, order.asset)) and bool(cut(order.quoted_usdt, USDT))
