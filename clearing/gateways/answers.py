"""Reading answers, strictly: what isn't exactly as the contract has it raises
`UnknownOutcome("unreadable_body")`.

Fields that the contract doesn't name are let pass, so that a counterparty may add some. Fields that
repeat the request (contracts, 4.6) are held against it where they are there.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from base.http import HttpAnswer
from clearing.gateways.errors import UnknownOutcome
from clearing.gateways.types import Action, Adjusted, Exchanged, Result, StoredRequest, Transferred

Amount = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?\Z")]  # never a JSON number, negative, NaN or with an exponent
Text = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]*\Z")]
Code = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,64}\Z")]
Millis = Annotated[int, Meta(ge=0)]
EXCERPT_BYTES: Final = 200
T = TypeVar("T")


class Problem(Struct, frozen=True):
    """An `application/problem+json`; `status` repeats the HTTP status. `scope` is of any type: what
    it says of others must not make what is said of this call unreadable.
    """

    code: Code
    status: int
    detail: str = ""
    scope: Any = None


class Accepted(Struct, frozen=True):
    """202: the call is accepted and being worked on."""

    key: str
    state: Literal["in_progress"]
    retry_after_ms: Millis


class DoneStatus(Struct, frozen=True, tag_field="state", tag="done"):
    key: str
    result: Raw


class InProgressStatus(Struct, frozen=True, tag_field="state", tag="in_progress"):
    key: str
    retry_after_ms: Millis


class RejectedStatus(Struct, frozen=True, tag_field="state", tag="rejected"):
    key: str
    status: int
    problem: Raw


Status = DoneStatus | InProgressStatus | RejectedStatus


class _Adjusted(Struct):
    key: str
    state: Literal["done"]
    reference: Text
    done_at_ms: Millis


class _Transferred(_Adjusted):
    asset: Text
    amount: Amount


class _Exchanged(_Adjusted):
    sell_asset: Text
    sold: Amount
    buy_asset: Text
    bought: Amount
    price: Amount
    min_lot: Amount


class _AdjustedEcho(_Adjusted):
    """With what an answer may repeat of the request. A body that was kept is read without it: what
    it answered was compared when it came.
    """

    asset: Text | UnsetType = UNSET
    quantity: Amount | UnsetType = UNSET
    usdt: Amount | UnsetType = UNSET


class _TransferredEcho(_Transferred):
    source: Text | UnsetType = UNSET
    destination: Text | UnsetType = UNSET


class _TransferAsked(Struct):
    asset: str
    amount: str


class _ExchangeAsked(Struct):
    sell_asset: str
    sell_amount: str
    buy_asset: str


_ODD: Final = re.compile(rb'\\|"\s')
_ASKED: Final = msgspec.json.Decoder(dict[str, Any])  # a newer release may ask with fields that we don't know
_FIELDS: Final = msgspec.json.Decoder(dict[str, Raw])
_PROBLEM: Final = msgspec.json.Decoder(Problem)
_ACCEPTED: Final = msgspec.json.Decoder(Accepted)
_STATUS: Final = msgspec.json.Decoder(Status)
_ADJUSTED: Final = msgspec.json.Decoder(_Adjusted)
_ADJUSTED_ECHO: Final = msgspec.json.Decoder(_AdjustedEcho)
_TRANSFERRED: Final = msgspec.json.Decoder(_Transferred)
_TRANSFERRED_ECHO: Final = msgspec.json.Decoder(_TransferredEcho)
_EXCHANGED: Final = msgspec.json.Decoder(_Exchanged)
_TRANSFER_ASKED: Final = msgspec.json.Decoder(_TransferAsked)
_EXCHANGE_ASKED: Final = msgspec.json.Decoder(_ExchangeAsked)


def read_adjusted(stored: StoredRequest, body: bytes) -> Adjusted:
    """The 200 body that answers `stored`: over the asset and the amounts asked for, where it says
    them. Raises UnknownOutcome.
    """
    wire = _decode(_ADJUSTED_ECHO, body)
    _require(wire.key == stored.key, body)
    _require_repeated(stored, body, {"asset": wire.asset}, {"quantity": wire.quantity, "usdt": wire.usdt})
    return _adjusted(wire)


def read_transferred(stored: StoredRequest, body: bytes) -> Transferred:
    """The 200 body that answers `stored`: over the asset and the amount asked for, and between the
    accounts asked for, where it says them. Raises UnknownOutcome.
    """
    wire, asked = _decode(_TRANSFERRED_ECHO, body), _TRANSFER_ASKED.decode(stored.body)
    result = _transferred(wire)
    _require((wire.key, wire.asset, result.amount) == (stored.key, asked.asset, Decimal(asked.amount)), body)
    _require_repeated(stored, body, {"source": wire.source, "destination": wire.destination}, {})
    return result


def read_exchanged(stored: StoredRequest, body: bytes) -> Exchanged:
    """The 200 body that answers `stored`: over the assets asked for, and no more sold than asked.
    Raises UnknownOutcome.
    """
    wire, asked = _decode(_EXCHANGED, body), _EXCHANGE_ASKED.decode(stored.body)
    result = _exchanged(wire)
    _require((wire.key, wire.sell_asset, wire.buy_asset) == (stored.key, asked.sell_asset, asked.buy_asset), body)
    _require(result.sold <= Decimal(asked.sell_amount), body)
    return result


def read_answer(stored: StoredRequest, body: bytes) -> Result:
    """The 200 body that answers `stored`, whatever it asks for. Raises UnknownOutcome."""
    match stored.action:
        case Action.ADJUST:
            return read_adjusted(stored, body)
        case Action.TRANSFER:
            return read_transferred(stored, body)
        case Action.EXCHANGE:
            return read_exchanged(stored, body)


def read_result(action: Action, body: bytes) -> Result:
    """The result in a 200 body that was kept in the database. Raises UnknownOutcome."""
    match action:
        case Action.ADJUST:
            return _adjusted(_decode(_ADJUSTED, body))
        case Action.TRANSFER:
            return _transferred(_decode(_TRANSFERRED, body))
        case Action.EXCHANGE:
            return _exchanged(_decode(_EXCHANGED, body))


def read_accepted(stored: StoredRequest, body: bytes) -> Accepted:
    """The 202 body that answers `stored`. Raises UnknownOutcome."""
    accepted = _decode(_ACCEPTED, body)
    _require(accepted.key == stored.key, body)
    return accepted


def read_status(stored: StoredRequest, body: bytes) -> Status:
    """What is known of the key. Raises UnknownOutcome."""
    status: Status = _decode(_STATUS, body)
    _require(status.key == stored.key, body)
    return status


def read_problem(answer: HttpAnswer) -> Problem:
    """The problem of an answer that says no. Raises UnknownOutcome, as for the error page of a
    proxy in between.
    """
    _require(answer.content_type == "application/problem+json", answer.body)
    return read_problem_body(answer.status, answer.body)


def read_problem_body(status: int, body: bytes) -> Problem:
    """A problem that was answered with `status`. Raises UnknownOutcome."""
    problem = _decode(_PROBLEM, body)
    _require(problem.status == status, body)
    return problem


def _adjusted(wire: _Adjusted) -> Adjusted:
    return Adjusted(wire.reference, wire.done_at_ms)


def _transferred(wire: _Transferred) -> Transferred:
    return Transferred(wire.reference, wire.done_at_ms, wire.asset, Decimal(wire.amount))


def _exchanged(wire: _Exchanged) -> Exchanged:
    return Exchanged(
        reference=wire.reference,
        done_at_ms=wire.done_at_ms,
        sell_asset=wire.sell_asset,
        sold=Decimal(wire.sold),
        buy_asset=wire.buy_asset,
        bought=Decimal(wire.bought),
        price=Decimal(wire.price),
        min_lot=Decimal(wire.min_lot),
    )


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        decoded = decoder.decode(body)
        if not _names_once(body):
            json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        _unreadable(body, str(error))
    return decoded


def _names_once(body: bytes) -> bool:
    """Whether it surely names each field once: a flat object of as many `":` as fields. Where that
    can't be said (escapes, spaces before a colon, objects in it), the slow look decides.
    """
    return _ODD.search(body) is None and body.count(b'":') == len(_FIELDS.decode(body))


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Readers differ in which of two values they take: an answer that says both says neither."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("it names a field twice")
    return fields


def _require(fits: bool, body: bytes) -> None:
    if not fits:
        _unreadable(body, "it doesn't answer what was asked")


def _require_repeated(stored: StoredRequest, body: bytes, texts: Mapping[str, str | UnsetType], amounts: Mapping[str, str | UnsetType]) -> None:
    """What the answer repeats of the request has to be the request's: an answer over another
    account, or over another amount, isn't the answer to this one.
    """
    if all(value is UNSET for value in (*texts.values(), *amounts.values())):
        return
    asked = _ASKED.decode(stored.body)
    _require(all(value is UNSET or value == asked[name] for name, value in texts.items()), body)
    _require(all(isinstance(value, UnsetType) or Decimal(value) == Decimal(asked[name]) for name, value in amounts.items()), body)


def _unreadable(body: bytes, why: str) -> NoReturn:
    """The excerpt is escaped: it goes into a text column, which takes no NUL."""
    raise UnknownOutcome("unreadable_body", f"{why}: {body[:EXCERPT_BYTES]!r}")
