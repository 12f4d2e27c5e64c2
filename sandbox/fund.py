"""The fund service: transfers between accounts, and the price feed that the counter quotes from."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from sandbox import ledger
from sandbox.market import Market
from sandbox.money import amount_of, known_asset, known_coin, text
from sandbox.problems import Rejection
from sandbox.requests import decode
from sandbox.storage import Storage

OWN_ACCOUNTS = (ledger.SYSTEM, ledger.FUND)
USER_ACCOUNT = re.compile(r"user:[1-9][0-9]{0,19}", re.ASCII)


class Transfer(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    order_id: str
    asset: str
    amount: str
    source: str
    destination: str


class Fund:
    operation = "transfer"

    def __init__(self, storage: Storage, market: Market) -> None:
        self._storage = storage
        self._market = market

    def price(self, asset: str, now_ms: int) -> Decimal:
        """USDT per coin; a problem for what isn't a coin."""
        return self._market.price(known_coin(asset), now_ms)

    def apply(self, request: bytes, *, key: str, at_ms: int, fraction: Decimal | None, factor: Decimal) -> Mapping[str, Any]:
        transfer = decode(request, Transfer)
        asset = known_asset(transfer.asset)
        amount = amount_of(transfer.amount, asset)
        self._require_accounts(transfer)
        ledger.require_funds(self._storage, transfer.source, asset, amount)
        postings = ledger.move(transfer.source, transfer.destination, asset, amount)
        order = self._storage.order(transfer.order_id)
        if order is not None and order.direction == "CLOSE" and transfer.destination == ledger.user(order.user_id) and asset == "USDT":
            postings += ledger.payout(order, amount)
        ledger.book(self._storage, postings, order_id=transfer.order_id, key=key, at_ms=at_ms)
        return {"asset": asset, "amount": text(amount), "source": transfer.source, "destination": transfer.destination}

    def _require_accounts(self, transfer: Transfer) -> None:
        if transfer.source not in OWN_ACCOUNTS or transfer.source == transfer.destination:
            raise Rejection(400, "invalid_request", "source is system or fund, and not the destination")
        if transfer.destination in OWN_ACCOUNTS:
            return
        if USER_ACCOUNT.fullmatch(transfer.destination) is None:
            raise Rejection(400, "invalid_request", "destination is system, fund or user:<user_id>")
        if self._storage.balance(transfer.destination, "USDT") is None:
            raise Rejection(404, "account_unknown", f"there is no account {transfer.destination}")
