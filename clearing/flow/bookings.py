"""What a voided order leaves behind, and the manual bookings that make it whole. Pure.

What the steps did is read from their stored requests and answers, so it is right for every version
of the flow. Accounts, as the contracts have them: `system`, `fund`, `user:<id>`; `market` is the
trading service's other side; `counter` is the counter's own book (its suspense and its contracts),
`owed:<id>` what it booked as owed to a user. Bookings sum to zero in each asset.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from base.readable import amount as amount_text
from clearing.flow.amounts import USDT, exact
from clearing.gateways import Action, Adjustment, Exchanged, Transfer, read_result


@dataclass(frozen=True, slots=True)
class Booking:
    """An amount to be booked to an account by hand; negative ones are taken from it."""

    account: str
    asset: str
    amount: Decimal

    @property
    def signed(self) -> str:
        """The amount as people read it."""
        return amount_text(self.amount)


@dataclass(frozen=True, slots=True)
class DoneOperation:
    """An operation that was confirmed: its stored request and answer."""

    action: Action
    request: bytes
    response: bytes


Moves = Iterator[tuple[str, str, str, Decimal]]  # from, to, asset, amount


def to_make_whole(done: Iterable[DoneOperation]) -> list[Booking]:
    """The reverse of all that was done, netted by account and asset; empty where nothing was."""
    net: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    with exact():
        for operation in done:
            for source, destination, asset, amount in _moves(operation):
                net[source, asset] += amount  # the reverse
                net[destination, asset] -= amount
    return [Booking(account, asset, amount) for (account, asset), amount in sorted(net.items()) if amount]


def _moves(operation: DoneOperation) -> Moves:
    match operation.action:
        case Action.ADJUST:
            return _adjustment(msgspec.json.decode(operation.request, type=Adjustment))
        case Action.TRANSFER:
            return _transfer(msgspec.json.decode(operation.request, type=Transfer))
        case Action.EXCHANGE:
            return _exchange(operation.response)


def _adjustment(asked: Adjustment) -> Moves:
    if asked.direction == "OPEN":
        yield "counter", "system", USDT, asked.usdt
        yield "system", "counter", asked.asset, asked.quantity
    else:
        yield "counter", "system", asked.asset, asked.quantity
        yield "counter", f"owed:{asked.user_id}", USDT, asked.usdt


def _transfer(asked: Transfer) -> Moves:
    yield asked.source, asked.destination, asked.asset, asked.amount


def _exchange(response: bytes) -> Moves:
    result = read_result(Action.EXCHANGE, response)
    assert isinstance(result, Exchanged)
    yield "fund", "market", result.sell_asset, result.sold
    yield "market", "fund", result.buy_asset, result.bought
