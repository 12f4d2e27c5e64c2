"""What people compare before they let money move: what was asked for beside what they say, with
units, the price beside the quote, and exactly what the next call will send (design, rule 13).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from hashlib import sha256

import msgspec

from base.readable import amount, text_of
from clearing.flow.amounts import cut, exact, unit
from clearing.flow.bookings import Booking
from clearing.flow.fills import BPS, at_quote, bought, deviation_bps, gain, residue, sold
from clearing.flow.flows import OrderFacts, Planned
from clearing.gateways import Action, Counterparty, Exchange, Exchanged, StoredRequest, Transfer
from clearing.interventions.evidence import Confirmed, described
from clearing.store.interventions import OutsideEvidence

PRICE_UNIT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that two sides tell of: what was asked for, what they say, and what of it."""

    what: str
    asked: str
    said: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Consequences:
    """What an intervention will do, as operators read it before they request or approve it.

    `next_call` and `next_request`: the call that will follow, in words and as the bytes that will
    be sent; empty where nothing follows, or nobody knows yet.
    """

    text: str
    bookings: tuple[Booking, ...] = ()
    lines: tuple[Line, ...] = ()
    next_call: str = ""
    next_request: str = field(default="", repr=False)

    @property
    def seal(self) -> str:
        """Changes with whatever a person has read here."""
        return sha256(repr((self.text, self.bookings, self.lines, self.next_call, self.next_request)).encode()).hexdigest()


def price_of(part: Exchanged) -> Decimal | None:
    """USDT per coin, as sold and bought have it."""
    usdt, coin = (part.sold, part.bought) if part.sell_asset == "USDT" else (part.bought, part.sold)
    with exact():
        return (usdt / coin).quantize(PRICE_UNIT, rounding=ROUND_HALF_EVEN) if coin else None


def quote_of(order: OrderFacts) -> Decimal:
    """The quote, USDT per coin."""
    with exact():
        return at_quote(order, Decimal(1), order.asset).quantize(PRICE_UNIT, rounding=ROUND_HALF_EVEN)


def fill_text(order: OrderFacts, parts: Sequence[Exchanged]) -> str:
    """What the market did for the order, against the quote; empty where it did nothing."""
    if not sold(parts) or not cut(order.quantity, order.asset):
        return ""
    left = residue(order, parts)
    sells, buys = parts[0].sell_asset, parts[0].buy_asset
    with exact():
        deviation = _rounded(gain(order, parts) * BPS / at_quote(order, sold(parts), sells))
    surplus = f"{signed(left.surplus)} {buys}" if left.surplus is not None else "more than can be stored"
    slippage = f"{signed(left.slippage_usdt)} USDT" if left.slippage_usdt is not None else "beyond any column"
    return (
        f"{amount(sold(parts))} {sells} sold, {amount(bought(parts))} {buys} bought; {surplus} against what is owed;"
        f" slippage {slippage}, {signed(deviation)} bps of the quote"
    )


def signed(value: Decimal) -> str:
    """With its sign, also where it is positive."""
    return f"{'+' if value > 0 else ''}{amount(value)}"


def _rounded(bps: Decimal) -> Decimal:
    with exact():
        return bps.quantize(Decimal("0.1"), rounding=ROUND_HALF_EVEN)


def compared(order: OrderFacts, stored: StoredRequest, evidence: OutsideEvidence, confirmed: Confirmed) -> tuple[Line, ...]:
    """What was asked for beside what people say."""
    words = (
        Line("Reference", stored.key, evidence.reference),
        Line("In their words", described(stored), evidence.document or "-"),
    )
    match stored.action:
        case Action.TRANSFER:
            asked = msgspec.json.decode(stored.body, type=Transfer)
            return (Line("Transferred", f"{amount(asked.amount)} {asked.asset}", _with(evidence.amount, asked.asset), "equal"), *words)
        case Action.EXCHANGE if isinstance(confirmed.result, Exchanged):
            return (*_exchange_lines(order, msgspec.json.decode(stored.body, type=Exchange), confirmed.result), *words)
        case _:
            return words


def _exchange_lines(order: OrderFacts, asked: Exchange, said: Exchanged) -> tuple[Line, ...]:
    with exact():
        rest = asked.sell_amount - said.sold
        factor = at_quote(order, Decimal(1), order.asset)
        expected = said.sold / factor if said.sell_asset == "USDT" else said.sold * factor
        bought_at_quote = expected.quantize(unit(said.buy_asset))
        more = said.bought - bought_at_quote
    deviation = deviation_bps(order, said)
    remaining = f"{_with(rest, asked.sell_asset)} not sold" if rest else "all"
    lines = [
        Line("Sold", _with(asked.sell_amount, asked.sell_asset), _with(said.sold, said.sell_asset), remaining),
        Line(
            "Bought",
            f"{_with(bought_at_quote, said.buy_asset)} at the quote",
            _with(said.bought, said.buy_asset),
            f"{signed(more)} {said.buy_asset}",
        ),
        Line(
            "Price",
            f"{amount(quote_of(order))} USDT per {order.asset} quoted",
            f"{amount(price_of(said))} USDT per {order.asset}",
            f"{signed(_rounded(deviation))} bps for the exchange" if deviation is not None else "",
        ),
    ]
    if rest:
        lines.append(Line("Minimum lot", "-", _with(said.min_lot, said.sell_asset)))
    return tuple(lines)


def _with(value: Decimal | None, asset: str) -> str:
    return f"{amount(value)} {asset}"


def next_call(planned: Planned | None) -> tuple[str, str]:
    """The call that follows, in words, and its bytes as text."""
    if planned is None:
        return "", ""
    return in_words(StoredRequest(planned.counterparty, planned.action, planned.key, planned.request), planned.step)


def in_words(stored: StoredRequest, step: int) -> tuple[str, str]:
    """A request in words, and its bytes as text."""
    return f"Step {step} sends {described(stored)}, to {Counterparty(stored.counterparty)} under the key {stored.key}", text_of(stored.body)
