"""Requests to the counterparties and their results, as values; and the bytes of a request.

Amounts are decimal strings in the bytes, `Decimal` everywhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

from base.decimals import plain


class Counterparty(StrEnum):
    COUNTER = "counter"
    FUND = "fund"
    TRADING = "trading"


class Action(StrEnum):
    ADJUST = "adjust"  # the counter's
    TRANSFER = "transfer"  # the fund's
    EXCHANGE = "exchange"  # trading's


class Adjustment(msgspec.Struct, frozen=True, kw_only=True):
    """Step 1: the counter adjusts the system account for an order, by its direction (OPEN or
    CLOSE).
    """

    order_id: str
    user_id: str
    contract_id: str
    direction: str
    asset: str
    quantity: Decimal
    usdt: Decimal

    def encode(self, key: str) -> bytes:
        """The request's exact bytes. Raises ValueError for an amount that isn't finite or is
        negative.
        """
        return _encode(key, self)


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Steps 2 and 4: the fund moves an amount between accounts (system, fund, user:<user_id>)."""

    order_id: str
    asset: str
    amount: Decimal
    source: str
    destination: str

    def encode(self, key: str) -> bytes:
        """The request's exact bytes. Raises ValueError for an amount that isn't finite or is
        negative.
        """
        return _encode(key, self)


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """Step 3: trading sells an amount of the fund's at the market."""

    order_id: str
    sell_asset: str
    sell_amount: Decimal
    buy_asset: str

    def encode(self, key: str) -> bytes:
        """The request's exact bytes. Raises ValueError for an amount that isn't finite or is
        negative.
        """
        return _encode(key, self)


@dataclass(frozen=True, slots=True)
class Adjusted:
    reference: str
    done_at_ms: int


@dataclass(frozen=True, slots=True)
class Transferred:
    reference: str
    done_at_ms: int
    asset: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Exchanged:
    """`sold` may be less than what was asked for (a partial execution); `price` in USDT per coin,
    `min_lot` in units of the asset sold.
    """

    reference: str
    done_at_ms: int
    sell_asset: str
    sold: Decimal
    buy_asset: str
    bought: Decimal
    price: Decimal
    min_lot: Decimal


Result = Adjusted | Transferred | Exchanged
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Done(Generic[R_co]):
    """The counterparty confirms the effect; `body` is its answer as it came, to be kept as
    evidence.
    """

    body: bytes
    result: R_co


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """An operation's request as it was written down before its first call; a repeat sends the same
    bytes.
    """

    counterparty: Counterparty
    action: Action
    key: str
    body: bytes


class SigningClock(Protocol):
    """The time to sign with, under a claim."""

    def timestamp_ms(self) -> int:
        """The service's time in ms since the epoch. Raises ClaimEnded at or after the claim's
        end.
        """
        ...


Reader = Callable[[StoredRequest, bytes], R_co]


def _encode(key: str, request: msgspec.Struct) -> bytes:
    fields = {name: _amount(value) if isinstance(value, Decimal) else value for name, value in msgspec.structs.asdict(request).items()}
    return msgspec.json.encode({"key": key, **fields})


def _amount(amount: Decimal) -> str:
    """An amount as it is sent: equal amounts are equal bytes. Raises ValueError."""
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{amount} is not an amount")
    return plain(amount.copy_abs())  # abs() would round to the context's precision; what is left of a minus is that of -0
