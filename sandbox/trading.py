"""The trading service: exchanges of the fund's assets at the market."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from sandbox import ledger
from sandbox.market import MIN_LOTS, Market
from sandbox.money import amount_of, known_asset, text
from sandbox.problems import Rejection
from sandbox.requests import decode
from sandbox.storage import Storage


class Exchange(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    order_id: str
    sell_asset: str
    sell_amount: str
    buy_asset: str


class Trading:
    operation = "exchange"

    def __init__(self, storage: Storage, market: Market) -> None:
        self._storage = storage
        self._market = market

    def apply(self, request: bytes, *, key: str, at_ms: int, fraction: Decimal | None, factor: Decimal) -> Mapping[str, Any]:
        exchange = decode(request, Exchange)
        sell, buy = known_asset(exchange.sell_asset), known_asset(exchange.buy_asset)
        if (sell == "USDT") == (buy == "USDT"):
            raise Rejection(400, "invalid_request", "one of the two assets is USDT, the other a coin")
        amount = amount_of(exchange.sell_amount, sell)
        if amount < MIN_LOTS[sell]:
            raise Rejection(400, "below_min_lot", f"the market's minimum lot is {MIN_LOTS[sell]} {sell}")
        ledger.require_funds(self._storage, ledger.FUND, sell, amount)
        deal = self._market.exchange(sell, amount, buy, now_ms=at_ms, fraction=fraction, factor=factor)
        if not deal.bought:
            raise Rejection(400, "below_min_lot", f"{amount} {sell} buys nothing at {deal.price}")
        ledger.book(self._storage, ledger.exchange(sell, deal.sold, buy, deal.bought), order_id=exchange.order_id, key=key, at_ms=at_ms)
        return {
            "sell_asset": sell,
            "sold": text(deal.sold),
            "buy_asset": buy,
            "bought": text(deal.bought),
            "price": text(deal.price),
            "min_lot": text(deal.min_lot),
        }
