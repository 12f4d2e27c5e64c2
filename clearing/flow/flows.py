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
business is a new entry of FLOWS, since a worker sends only bytes that the clearing's own version
plans (`clearing/running/stored_request.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from django.conf import settings

from clearing.flow.amounts import USDT, cut
from clearing.flow.fills import Residue, bought, doubts, exceeds_slippage, residue, sell_amount, unsold
from clearing.gateways import Action, Adjustment, Counterparty, Exchange, Exchanged, Transfer


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
    parks: str = ""  # the order parks before it, and why
    holds: bool = False  # it takes two operators to let it go on to it; otherwise a retry does


@dataclass(frozen=True, slots=True)
class Finished:
    """All operations are confirmed."""

    residue: Residue


@dataclass(frozen=True, slots=True)
class Parks:
    """The step is done, but a person has to decide how it goes on; with `holds` two of them."""

    code: str
    holds: bool = False


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
IMPLAUSIBLE_FILL = "implausible_fill"


def dues() -> set[str]:
    """Every `counterparty:step` that an order may be due for."""
    return {f"{definition.counterparty}:{step}" for flow in FLOWS.values() for steps in flow.values() for step, definition in enumerate(steps, 1)}


def key_of(order_id: str, step: int, part: int = 1, revision: int = 0) -> str:
    """The idempotency key `{order_id}:{step}[.{part}][:r{n}]` (design, rule 5): the operation's,
    never an attempt's.
    """
    return f"{order_id}:{step}{f'.{part}' if part > 1 else ''}{f':r{revision}' if revision else ''}"


def revision_in(key: str, order_id: str, step: int, part: int = 1) -> int:
    """The revision that a stored key names; 0 where it names none."""
    revision = key.removeprefix(f"{key_of(order_id, step, part)}:r")
    return int(revision) if revision.isdecimal() else 0


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
        return _after_exchange(flow, order, parts, part)
    return Finished(residue(order, parts)) if step == LAST_STEP else plan(flow, order, step + 1, parts)


def _after_exchange(flow: int, order: OrderFacts, parts: Sequence[Exchanged], part: int) -> Next:
    """Each part is judged when it is done; what two operators have let pass isn't judged again."""
    rest, is_doubtful = unsold(order, parts), bool(doubts(order, parts[-1]))
    is_partial = rest > 0 and rest >= parts[-1].min_lot
    if is_partial and part >= settings.CLEARING_PARTS_MAX:
        return _parked_after(is_doubtful)
    if not is_partial and (not bought(parts) or rest > sell_amount(order) * settings.CLEARING_DUST_SHARE_MAX):
        return _parked_after(is_doubtful)
    following = plan(flow, order, EXCHANGE_STEP, parts, part=part + 1) if is_partial else plan(flow, order, EXCHANGE_STEP + 1, parts)
    if is_doubtful:
        return replace(following, parks=IMPLAUSIBLE_FILL, holds=True)
    if not is_partial and exceeds_slippage(order, parts):
        return replace(following, parks=SLIPPAGE_EXCEEDED, holds=order.quoted_usdt > settings.CLEARING_SLIPPAGE_TWO_OPERATORS_USDT)
    return following


def _parked_after(is_doubtful: bool) -> Parks:
    return Parks(IMPLAUSIBLE_FILL, holds=True) if is_doubtful else Parks(PARTIAL_EXECUTION)
