"""The counter as its users see it: quotes, and orders that open and close contracts. Sandbox only,
and unsigned.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec

from sandbox import ledger
from sandbox.money import amount_of, cut, known_coin, text
from sandbox.problems import Problem
from sandbox.requests import require_user_id
from sandbox.storage import Contract, PlacedOrder, Storage, SyncOrderRow
from sandbox.synctable import Place, SyncTable, as_json, by_minute

QUOTE_VALID_MS = 10_000
QUOTES_MAX = 100_000  # open quotes kept in memory; the oldest go first
BATCH_ORDERS_MAX = 300

Direction = Literal["OPEN", "CLOSE"]


class QuoteRequest(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str
    direction: Direction
    asset: str
    quantity: str


class OrderRequest(msgspec.Struct, forbid_unknown_fields=True):
    """An OPEN needs a quantity; a CLOSE closes its whole contract, so that the contract's quantity
    counts.
    """

    direction: Direction
    asset: str
    quantity: str | None = None
    quote_id: str | None = None
    contract_id: str | None = None


class UserOrderRequest(OrderRequest, kw_only=True, forbid_unknown_fields=True):
    user_id: str


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str
    orders: list[OrderRequest]


class MiscRequest(msgspec.Struct, forbid_unknown_fields=True):
    user_id: str
    kind: Literal["DEPOSIT", "WITHDRAW", "FEE"]
    amount: str = "100"


class Quote(NamedTuple):
    user_id: str
    direction: str
    asset: str
    price: Decimal
    expires_at_ms: int


class Desk:
    """Where users trade. `price` asks the fund service for a coin's price: (coin, now in ms) → USDT
    per coin.

    `fault` names the fault that befalls an order's sync-order row, if any: (order id) →
    no_sync_row, not_streamed or "".
    """

    def __init__(
        self,
        storage: Storage,
        table: SyncTable,
        price: Callable[[str, int], Decimal],
        spread_bps: Decimal,
        fault: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._storage = storage
        self._fault = fault
        self._table = table
        self._price = price
        self._spread = spread_bps / 10_000
        self._quotes: OrderedDict[str, Quote] = OrderedDict()
        self._quotes_given = 0

    def quote(self, request: QuoteRequest, now_ms: int) -> dict[str, Any]:
        user_id, coin = require_user_id(request.user_id), known_coin(request.asset)
        quantity = amount_of(request.quantity, coin)
        quote = Quote(user_id, request.direction, coin, self._quoted_price(request.direction, coin, now_ms), now_ms + QUOTE_VALID_MS)
        self._quotes_given += 1
        quote_id = f"Q{now_ms}-{self._quotes_given}"
        self._quotes[quote_id] = quote
        if len(self._quotes) > QUOTES_MAX:
            self._quotes.popitem(last=False)
        usdt = cut(quantity * quote.price, "USDT")
        return {"quote_id": quote_id, "usdt": text(usdt), "price": text(quote.price), "expires_at_ms": quote.expires_at_ms}

    def place(self, user_id: str, requests: Sequence[OrderRequest], now_ms: int) -> list[dict[str, Any]]:
        """Places the orders in one transaction and one statement on the sync-order table; all of
        them or none.
        """
        if not 1 <= len(requests) <= BATCH_ORDERS_MAX:
            raise Problem(400, "invalid_request", f"a batch has 1 to {BATCH_ORDERS_MAX} orders")
        require_user_id(user_id)
        with self._storage.transaction():
            ledger.meet_user(self._storage, user_id, now_ms)
            placed = [self._place_one(user_id, request, now_ms) for request in requests]
            streamed = [row for order in placed if (row := self._write_sync_row(order)) is not None]
            if streamed:
                self._table.log_insert(streamed, now_ms)
        self._table.committed()
        return [_receipt(order) for order in placed]

    def place_misc(self, request: MiscRequest, now_ms: int) -> dict[str, Any]:
        """A sync order that is no exchange: money that comes or goes."""
        user_id, amount = require_user_id(request.user_id), amount_of(request.amount, "USDT")
        with self._storage.transaction():
            ledger.meet_user(self._storage, user_id, now_ms)
            place = self._table.next_place(user_id, now_ms)
            row = self._table.insert(_misc_row(user_id, request.kind, amount, place))
            self._book_misc(row, amount, now_ms)
            self._table.log_insert([row], now_ms)
        self._table.committed()
        return {"order_id": row.order_id, "kind": row.kind, "created_ms": row.created_ms, "shard": row.shard, "sequence": str(row.sequence)}

    def _place_one(self, user_id: str, request: OrderRequest, now_ms: int) -> PlacedOrder:
        place = self._table.next_place(user_id, now_ms)
        contract = self._contract_for(user_id, request, place)
        usdt = cut(Decimal(contract.quantity) * self._agreed_price(user_id, request, now_ms), "USDT")
        if not usdt:
            raise Problem(400, "amount_invalid", f"{contract.quantity} {contract.asset} is worth less than the smallest USDT amount")
        order = _order(request.direction, contract, text(usdt), place)
        if order.direction == "OPEN":
            ledger.require_funds(self._storage, ledger.user(user_id), "USDT", usdt)
        ledger.book(self._storage, ledger.placement(order), order_id=order.order_id, key=None, at_ms=now_ms)
        self._storage.insert_order(order)
        return order

    def _write_sync_row(self, order: PlacedOrder) -> SyncOrderRow | None:
        """Writes the order's row. None where the stream is not to show it."""
        fault = self._fault(order.order_id)
        if fault == "no_sync_row":
            return None
        row = self._table.insert(exchange_row(order))
        return None if fault == "not_streamed" else row

    def orders_page(self, shard: int, after_ms: int, after_id: int, limit: int) -> list[dict[str, Any]]:
        """Rows of the counter's own order table, in the shape of sync orders."""
        rows = self._storage.orders_after(shard, after_ms, after_id, limit)
        return [as_json(exchange_row(order)._replace(id=row_id), self._table.proof) for row_id, order in rows]

    def order_counts(self, shard: int, from_ms: int, to_ms: int) -> list[dict[str, Any]]:
        return by_minute(self._storage.order_counts(shard, from_ms, to_ms))

    def _contract_for(self, user_id: str, request: OrderRequest, place: Place) -> Contract:
        if request.direction == "CLOSE":
            return self._close_contract(user_id, request)
        if request.quantity is None:
            raise Problem(400, "invalid_request", "an OPEN needs a quantity")
        quantity = amount_of(request.quantity, known_coin(request.asset))
        contract = Contract(f"C{place.digits}", user_id, request.asset, text(quantity), "OPEN")
        self._storage.open_contract(contract, place.created_ms)
        return contract

    def _close_contract(self, user_id: str, request: OrderRequest) -> Contract:
        coin = known_coin(request.asset)
        contract = self._storage.oldest_open_contract(user_id, coin) if request.contract_id is None else self._storage.contract(request.contract_id)
        if contract is None or contract[1:3] != (user_id, coin) or contract.state != "OPEN":
            raise Problem(409, "no_open_contract", f"user {user_id} has no such open {coin} contract")
        self._storage.close_contract(contract.contract_id)
        return contract

    def _agreed_price(self, user_id: str, request: OrderRequest, now_ms: int) -> Decimal:
        if request.quote_id is None:
            return self._quoted_price(request.direction, request.asset, now_ms)
        quote = self._quotes.get(request.quote_id)
        if quote is None or quote[:3] != (user_id, request.direction, request.asset):
            raise Problem(400, "quote_unknown", f"{request.quote_id} is no quote for this user, direction and asset")
        if quote.expires_at_ms < now_ms:
            raise Problem(400, "quote_expired", f"{request.quote_id} has expired: ask for another quote")
        return quote.price

    def _quoted_price(self, direction: str, coin: str, now_ms: int) -> Decimal:
        """Who opens pays the spread on top of the fund's price, who closes gets that much less."""
        factor = 1 + self._spread if direction == "OPEN" else 1 - self._spread
        return cut(self._price(coin, now_ms) * factor, "USDT")

    def _book_misc(self, row: SyncOrderRow, amount: Decimal, now_ms: int) -> None:
        account = ledger.user(row.user_id)
        if row.kind == "DEPOSIT":
            postings = ledger.move(ledger.FLOAT, account, "USDT", amount)
        else:
            ledger.require_funds(self._storage, account, "USDT", amount)
            postings = ledger.move(account, ledger.FLOAT, "USDT", amount)
        ledger.book(self._storage, postings, order_id=row.order_id, key=None, at_ms=now_ms)


def _order(direction: str, contract: Contract, usdt: str, place: Place) -> PlacedOrder:
    return PlacedOrder(
        order_id=f"O{place.digits}",
        user_id=contract.user_id,
        shard=place.shard,
        sequence=place.sequence,
        direction=direction,
        asset=contract.asset,
        quantity=contract.quantity,
        quoted_usdt=usdt,
        contract_id=contract.contract_id,
        created_ms=place.created_ms,
    )


def exchange_row(order: PlacedOrder) -> SyncOrderRow:
    return SyncOrderRow(
        id=0,
        order_id=order.order_id,
        user_id=order.user_id,
        shard=order.shard,
        sequence=order.sequence,
        kind="EXCHANGE",
        direction=order.direction,
        asset=order.asset,
        quantity=order.quantity,
        quoted_usdt=order.quoted_usdt,
        instrument=f"{order.asset}-USDT-OPTION",
        contract_id=order.contract_id,
        status="PLACED",
        created_ms=order.created_ms,
    )


def _misc_row(user_id: str, kind: str, amount: Decimal, place: Place) -> SyncOrderRow:
    order_id = f"O{place.digits}"
    return SyncOrderRow(
        0, order_id, user_id, place.shard, place.sequence, kind, None, "USDT", text(amount), None, None, None, "PLACED", place.created_ms
    )


def _receipt(order: PlacedOrder) -> dict[str, Any]:
    return {
        "order_id": order.order_id,
        "contract_id": order.contract_id,
        "usdt": order.quoted_usdt,
        "quantity": order.quantity,
        "created_ms": order.created_ms,
        "shard": order.shard,
        "sequence": str(order.sequence),
    }
