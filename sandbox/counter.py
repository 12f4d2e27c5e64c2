"""The counter as the acceptance service sees it: step 1 of a clearing, the system account's
adjustment.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import msgspec

from sandbox import ledger
from sandbox.money import amount_of, known_coin, text
from sandbox.problems import Rejection
from sandbox.requests import decode
from sandbox.storage import PlacedOrder, Storage
from sandbox.synctable import SyncTable

STATUS_CHANGE_EVERY = 10  # of so many orders in a shard, step 1 updates one's row
DONE_STATUS = {"OPEN": "ACTIVE", "CLOSE": "SETTLED"}


class Adjustment(msgspec.Struct, forbid_unknown_fields=True):
    key: str
    order_id: str
    user_id: str
    contract_id: str
    direction: Literal["OPEN", "CLOSE"]
    asset: str
    quantity: str
    usdt: str


class Counter:
    operation = "adjust"

    def __init__(self, storage: Storage, table: SyncTable) -> None:
        self._storage = storage
        self._table = table

    def apply(self, request: bytes, *, key: str, at_ms: int, fraction: Decimal | None, factor: Decimal) -> Mapping[str, Any]:
        adjustment = decode(request, Adjustment)
        quantity = amount_of(adjustment.quantity, known_coin(adjustment.asset))
        usdt = amount_of(adjustment.usdt, "USDT")
        order = self._order_of(adjustment)
        if (quantity, usdt) != (Decimal(order.quantity), Decimal(order.quoted_usdt)):
            raise Rejection(400, "amount_invalid", f"order {order.order_id} is over {order.quantity} {order.asset} and {order.quoted_usdt} USDT")
        if order.direction == "OPEN":
            ledger.require_funds(self._storage, ledger.SYSTEM, order.asset, quantity)
        ledger.book(self._storage, ledger.adjustment(order), order_id=order.order_id, key=key, at_ms=at_ms)
        if order.sequence % STATUS_CHANGE_EVERY == 0:
            self._update_row(order, at_ms)
        return {"asset": order.asset, "quantity": text(quantity), "usdt": text(usdt)}

    def _order_of(self, adjustment: Adjustment) -> PlacedOrder:
        order = self._storage.order(adjustment.order_id)
        if order is None:
            raise Rejection(400, "order_unknown", f"the counter has no order {adjustment.order_id}")
        given = (adjustment.user_id, adjustment.contract_id, adjustment.direction, adjustment.asset)
        if given != (order.user_id, order.contract_id, order.direction, order.asset):
            raise Rejection(400, "invalid_request", f"user, contract, direction and asset are not those of order {order.order_id}")
        return order

    def _update_row(self, order: PlacedOrder, at_ms: int) -> None:
        row = self._storage.sync_order(order.order_id)
        status = DONE_STATUS[order.direction]
        if row is not None and row.status != status:
            self._table.set_status(row, status, at_ms)
            self._table.committed()
