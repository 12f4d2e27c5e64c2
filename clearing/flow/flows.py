"""What the four steps are, for both directions: the business, in one table (design, section 2).

====  ============  ===================================  ===========================================
step  counterparty  OPEN: the user paid USDT             CLOSE: the user sold the option back
====  ============  ===================================  ===========================================
1     counter       system + USDT, - coin                system + coin, the quoted USDT is owed
2     fund          USDT: system -> fund                 coin: system -> fund
3     trading       USDT -> coin at the market           coin -> USDT at the market
4     fund          the coin bought: fund -> system      the quoted USDT: fund -> the user
====  ============  ===================================  ===========================================

A clearing runs by the version of the flow that it was opened with, to its end: a change of the
business is a new entry of FLOWS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache

from django.conf import settings

from clearing.gateways import Action, Adjustment, Counterparty, Exchange, Exchanged, Transfer

USDT = "USDT"
PRECISION = 80  # digits: more than the widest product of two columns has
_WIDE = Context(prec=PRECISION)
SLIPPAGE_UNIT = Decimal("0.00000001")


@dataclass(frozen=True, slots=True)
class OrderFacts:
    """What the steps need to know of an order."""

    order_id: str
    user_id: str
    contract_id: str
    direction: str
    asset: str
    quantity: Decimal
    quoted_usdt: Decimal


@dataclass(frozen=True, slots=True)
class Planned:
    """An operation as it is written down before its first call."""

    step: int
    part: int
    counterparty: Counterparty
    action: Action
    key: str
    request: bytes
    parks: str = ""  # the order parks before it, and why; a retry goes on to it


@dataclass(frozen=True, slots=True)
class Finished:
    """All operations are confirmed."""

    slippage_usdt: Decimal


@dataclass(frozen=True, slots=True)
class Parks:
    """The step is done, but a person has to decide how it goes on."""

    code: str


Request = Adjustment | Transfer | Exchange
Next = Planned | Finished | Parks


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a flow: whom it calls, and its request from the order and what step 3 has exchanged
    so far.
    """

    counterparty: Counterparty
    action: Action
    request: Callable[[OrderFacts, Sequence[Exchanged]], Request]


def cut(amount: Decimal, asset: str) -> Decimal:
    """The amount at its asset's scale, cut downwards."""
    return amount.quantize(_unit(settings.ASSET_SCALES[asset]), rounding=ROUND_DOWN, context=_WIDE)


@cache
def _unit(scale: int) -> Decimal:
    return Decimal(1).scaleb(-scale)


def _adjust(order: OrderFacts, _: Sequence[Exchanged]) -> Request:
    return Adjustment(
        order_id=order.order_id,
        user_id=order.user_id,
        contract_id=order.contract_id,
        direction=order.direction,
        asset=order.asset,
        quantity=cut(order.quantity, order.asset),
        usdt=cut(order.quoted_usdt, USDT),
    )


def _usdt_to_fund(order: OrderFacts, _: Sequence[Exchanged]) -> Request:
    return Transfer(order_id=order.order_id, asset=USDT, amount=cut(order.quoted_usdt, USDT), source="system", destination="fund")


def _coin_to_fund(order: OrderFacts, _: Sequence[Exchanged]) -> Request:
    return Transfer(order_id=order.order_id, asset=order.asset, amount=cut(order.quantity, order.asset), source="system", destination="fund")


def _buy_coin(order: OrderFacts, parts: Sequence[Exchanged]) -> Request:
    return Exchange(order_id=order.order_id, sell_asset=USDT, sell_amount=unsold(order, parts), buy_asset=order.asset)


def _sell_coin(order: OrderFacts, parts: Sequence[Exchanged]) -> Request:
    return Exchange(order_id=order.order_id, sell_asset=order.asset, sell_amount=unsold(order, parts), buy_asset=USDT)


def _coin_to_system(order: OrderFacts, parts: Sequence[Exchanged]) -> Request:
    return Transfer(order_id=order.order_id, asset=order.asset, amount=bought(parts), source="fund", destination="system")


def _usdt_to_user(order: OrderFacts, _: Sequence[Exchanged]) -> Request:
    amount = cut(order.quoted_usdt, USDT)
    return Transfer(order_id=order.order_id, asset=USDT, amount=amount, source="fund", destination=f"user:{order.user_id}")


Flow = dict[str, tuple[Step, Step, Step, Step]]
FLOWS: dict[int, Flow] = {
    1: {
        "OPEN": (
            Step(Counterparty.COUNTER, Action.ADJUST, _adjust),
            Step(Counterparty.FUND, Action.TRANSFER, _usdt_to_fund),
            Step(Counterparty.TRADING, Action.EXCHANGE, _buy_coin),
            Step(Counterparty.FUND, Action.TRANSFER, _coin_to_system),
        ),
        "CLOSE": (
            Step(Counterparty.COUNTER, Action.ADJUST, _adjust),
            Step(Counterparty.FUND, Action.TRANSFER, _coin_to_fund),
            Step(Counterparty.TRADING, Action.EXCHANGE, _sell_coin),
            Step(Counterparty.FUND, Action.TRANSFER, _usdt_to_user),
        ),
    }
}
CURRENT_FLOW = 1
EXCHANGE_STEP = 3
LAST_STEP = 4
PARTIAL_EXECUTION = "partial_execution"
SLIPPAGE_EXCEEDED = "slippage_exceeded"


def dues() -> set[str]:
    """Every `counterparty:step` that an order may be due for."""
    return {f"{definition.counterparty}:{step}" for flow in FLOWS.values() for steps in flow.values() for step, definition in enumerate(steps, 1)}


def sell_amount(order: OrderFacts) -> Decimal:
    """What step 3 has to sell in all, in USDT for an OPEN, in coin for a CLOSE."""
    return cut(order.quoted_usdt, USDT) if order.direction == "OPEN" else cut(order.quantity, order.asset)


def sold(parts: Sequence[Exchanged]) -> Decimal:
    """What the exchange has sold over all parts."""
    return sum((part.sold for part in parts), Decimal(0))


def bought(parts: Sequence[Exchanged]) -> Decimal:
    """What the exchange has bought over all parts, at the asset's scale."""
    return sum((cut(part.bought, part.buy_asset) for part in parts), Decimal(0))


def unsold(order: OrderFacts, parts: Sequence[Exchanged]) -> Decimal:
    """What is still to be sold, at the asset's scale."""
    rest = sell_amount(order) - sold(parts)
    return cut(rest, parts[-1].sell_asset) if parts else rest


def key_of(order_id: str, step: int, part: int = 1, revision: int = 0) -> str:
    """The idempotency key `{order_id}:{step}[.{part}][:r{n}]` (design, rule 5): the operation's,
    never an attempt's.
    """
    return f"{order_id}:{step}{f'.{part}' if part > 1 else ''}{f':r{revision}' if revision else ''}"


def plan(flow: int, order: OrderFacts, step: int, parts: Sequence[Exchanged] = (), *, part: int = 1, revision: int = 0) -> Planned:
    """The operation of a step, ready to be written down."""
    definition = FLOWS[flow][order.direction][step - 1]
    key = key_of(order.order_id, step, part, revision)
    return Planned(step, part, definition.counterparty, definition.action, key, definition.request(order, parts).encode(key))


def after(flow: int, order: OrderFacts, step: int, parts: Sequence[Exchanged], *, part: int = 1) -> Next:
    """What follows when the operation of `step` is confirmed. `parts`: every exchange of the order
    so far, this one included.
    """
    if step == EXCHANGE_STEP:
        rest = unsold(order, parts)
        if rest > 0 and rest >= parts[-1].min_lot:
            return plan(flow, order, step, parts, part=part + 1) if part < settings.CLEARING_PARTS_MAX else Parks(PARTIAL_EXECUTION)
        if not bought(parts) or rest > sell_amount(order) * settings.CLEARING_DUST_SHARE_MAX:
            return Parks(PARTIAL_EXECUTION)
    if step == LAST_STEP:
        return Finished(slippage(order, parts))
    following = plan(flow, order, step + 1, parts)
    return replace(following, parks=SLIPPAGE_EXCEEDED) if step == EXCHANGE_STEP and exceeds_slippage(order, parts) else following


def exceeds_slippage(order: OrderFacts, parts: Sequence[Exchanged]) -> bool:
    """Whether the market's price lies outside CLEARING_MAX_SLIPPAGE_BPS of the quote, on either
    side; never while that is off.
    """
    limit = settings.CLEARING_MAX_SLIPPAGE_BPS
    return bool(limit) and abs(slippage(order, parts)) * 10_000 > limit * order.quoted_usdt


def slippage(order: OrderFacts, parts: Sequence[Exchanged]) -> Decimal:
    """What the exchange gained (positive) or lost by the market's move, in USDT, scale 8,
    half-even; dust below the lot counts in.
    """
    with localcontext(prec=PRECISION):
        got, gone, dust = bought(parts), sold(parts), unsold(order, parts)
        if order.direction == "OPEN":
            usdt = (got - cut(order.quantity, order.asset)) * sell_amount(order) / got + dust
        else:
            usdt = got - cut(order.quoted_usdt, USDT) + dust * got / gone
        return usdt.quantize(SLIPPAGE_UNIT, rounding=ROUND_HALF_EVEN)
