"""Makes an operation's answer from the evidence that operators give, in the counterparty's format,
and reads it with the parser of the counterparty's answers.

So a confirmation by phone is as strict as an answer: an amount other than the requested one, or
more sold than requested, is refused here.
"""

from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

import msgspec

from base.readable import amount
from clearing.flow.amounts import USDT, exact
from clearing.gateways import Action, Exchange, Result, StoredRequest, Transfer, UnknownOutcome, read_answer
from clearing.store.interventions import OutsideEvidence

PRICE_UNIT = Decimal("0.00000001")


class Unfit(Exception):  # noqa: N818 - an answer to an operator
    """The evidence doesn't fit the request; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The answer made from the evidence, as bytes and as read."""

    body: bytes
    result: Result


def answer_from(stored: StoredRequest, evidence: OutsideEvidence, *, done_at_ms: int, intervention_id: int) -> Confirmed:
    """The answer to `stored` that the evidence amounts to; it contains the intervention's id.
    Raises Unfit.
    """
    if not evidence.reference.strip():
        raise Unfit("name the counterparty's own reference")
    fields = {"key": stored.key, "state": "done", "reference": evidence.reference, "done_at_ms": done_at_ms, **_own_fields(stored, evidence)}
    body = msgspec.json.encode({**fields, "confirmed_by_intervention": intervention_id})
    try:
        return Confirmed(body, read_answer(stored, body))
    except UnknownOutcome as error:
        raise Unfit(f"this is no answer to the request: {described(stored)}") from error


def _own_fields(stored: StoredRequest, evidence: OutsideEvidence) -> dict[str, str]:
    match stored.action:
        case Action.ADJUST:
            return {}
        case Action.TRANSFER:
            transfer = msgspec.json.decode(stored.body, type=Transfer)
            return {"asset": transfer.asset, "amount": amount(_required(evidence.amount, "the amount that was transferred"))}
        case Action.EXCHANGE:
            return _exchange_fields(msgspec.json.decode(stored.body, type=Exchange), evidence)


def _exchange_fields(asked: Exchange, evidence: OutsideEvidence) -> dict[str, str]:
    sold = _required(evidence.amount, f"how much {asked.sell_asset} was sold")
    bought = _required(evidence.bought, f"how much {asked.buy_asset} was bought for it")
    if not sold or not bought:
        raise Unfit("an exchange sells something and buys something for it: otherwise it did not happen")
    min_lot = evidence.min_lot
    if sold < asked.sell_amount:
        min_lot = _required(min_lot, f"the market's minimum lot in {asked.sell_asset}, since not all was sold")
    usdt, coin = (sold, bought) if asked.sell_asset == USDT else (bought, sold)
    with exact():
        price = (usdt / coin).quantize(PRICE_UNIT, rounding=ROUND_DOWN)
    return {
        "sell_asset": asked.sell_asset,
        "sold": amount(sold),
        "buy_asset": asked.buy_asset,
        "bought": amount(bought),
        "price": amount(price),
        "min_lot": amount(min_lot or Decimal(0)),
    }


def _required(given: Decimal | None, what: str) -> Decimal:
    if given is None:
        raise Unfit(f"name {what}")
    if given < 0:
        raise Unfit(f"{what} can't be negative")
    return given


def described(stored: StoredRequest) -> str:
    """The request in words."""
    match stored.action:
        case Action.ADJUST:
            return "an adjustment"
        case Action.TRANSFER:
            transfer = msgspec.json.decode(stored.body, type=Transfer)
            return f"a transfer of {amount(transfer.amount)} {transfer.asset} from {transfer.source} to {transfer.destination}"
        case Action.EXCHANGE:
            asked = msgspec.json.decode(stored.body, type=Exchange)
            return f"an exchange of at most {amount(asked.sell_amount)} {asked.sell_asset} into {asked.buy_asset}"


def assets_of(stored: StoredRequest) -> tuple[str, str]:
    """The assets of the amounts that a confirmation states: moved or sold, and bought."""
    match stored.action:
        case Action.ADJUST:
            return "", ""
        case Action.TRANSFER:
            return msgspec.json.decode(stored.body, type=Transfer).asset, ""
        case Action.EXCHANGE:
            asked = msgspec.json.decode(stored.body, type=Exchange)
            return asked.sell_asset, asked.buy_asset
