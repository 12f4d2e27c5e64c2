"""The counter's side of intake: users' orders, what the log brings of them, and the interface that
has them all.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Any, Final

from orders.backfill.counter_api import Page, Position, Shards
from orders.intake.classify import CONTENTS_DIFFER, Arrival, Item, Origin, Suspect
from orders.intake.mapping import NewOrder
from sandbox.storage import PlacedOrder

SHARDS: Final = 4
CHANGES_FROM: Final = 10_000_000  # offsets of what isn't an order
NOT_LOGGED: Final = 0.01  # of orders: the log loses them
LATE: Final = 0.02  # of orders: the log brings them later than younger ones
CHANGED: Final = 0.003  # of orders: the log says later that the counter changed one, and people find that it didn't
LATE_SECONDS_MAX: Final = 4.0
CLOSE: Final = 0.4
PRICES: Final = {"BTC": Decimal(60_000), "ETH": Decimal(3_000)}


class Counter:
    """Places orders, and knows every one of them."""

    def __init__(self, now_ms: Callable[[], int], random: Random, users: int) -> None:
        self.placed: dict[str, PlacedOrder] = {}
        self.log: list[Item] = []
        self.not_logged = self.changed = 0
        self._late: list[tuple[float, Arrival]] = []
        self._rows: dict[int, list[tuple[int, int, NewOrder]]] = defaultdict(list)
        self._open: list[tuple[str, str, str]] = []
        self._now_ms = now_ms
        self._random = random
        self._users = users

    def place(self) -> None:
        """One order of somebody's."""
        number = len(self.placed) + 1
        order = self._new_order(number)
        self.placed[order.order_id] = PlacedOrder(
            *(order.order_id, order.user_id, order.shard, order.sequence, order.direction, order.asset),
            *(f"{order.quantity:f}", f"{order.quoted_usdt:f}", order.contract_id, order.created_ms),
        )
        self._rows[order.shard].append((order.created_ms, number, order))
        arrival = Arrival(order, Origin("counter.sync_order", order.shard, number, b""))
        draw = self._random.random()
        if draw < NOT_LOGGED:
            self.not_logged += 1
        elif draw < NOT_LOGGED + LATE:
            self._late.append((order.created_ms + self._random.uniform(0, LATE_SECONDS_MAX) * 1000, arrival))
        else:
            self.log.append(arrival)
        self.bring_late()
        if self._random.random() < CHANGED:
            self._change(number)

    def _change(self, number: int) -> None:
        """One of the last orders, which may be anywhere on its way."""
        self.changed += 1
        order_id = f"S{max(1, number - self._random.randrange(40)):06d}"
        self.log.append(Suspect(order_id, CONTENTS_DIFFER, "its amount", "", Origin("counter.sync_order", 0, CHANGES_FROM + number, b"")))

    def bring_late(self) -> None:
        """The log gets what it is late with."""
        due = [one for one in self._late if one[0] <= self._now_ms()]
        self.log += [arrival for _, arrival in due]
        self._late = [one for one in self._late if one not in due]

    def _new_order(self, number: int) -> NewOrder:
        user_id, asset = str(1001 + self._random.randrange(self._users)), self._random.choice(["BTC", "ETH"])
        contract_id, direction = f"C{number}", "OPEN"
        if self._open and self._random.random() < CLOSE:
            user_id, asset, contract_id = self._open.pop(self._random.randrange(len(self._open)))
            direction = "CLOSE"
        else:
            self._open.append((user_id, asset, contract_id))
        quantity = Decimal(self._random.randrange(100, 400_000)) / 1_000_000 * (1 if asset == "BTC" else 20)
        usdt = (quantity * PRICES[asset] * Decimal(self._random.randrange(9_980, 10_020)) / 10_000).quantize(Decimal("0.000001"))
        return NewOrder(
            f"S{number:06d}", user_id, int(user_id) % SHARDS, number, contract_id, direction, asset, quantity, usdt, f"{asset}-OPTION", self._now_ms()
        )

    # --- The interface, as gap compensation asks it -----------------------------------------------
    def shards(self) -> Shards:
        return Shards(tuple(range(SHARDS)), self._now_ms())

    def page(self, shard: int, after_ms: int, after_id: int, limit: int) -> Page:
        rows = self._rows[shard]
        first = self._first_after(rows, after_ms, after_id)
        found = rows[first : first + limit]
        following = Position(found[-1][0], found[-1][1]) if first + limit < len(rows) else None
        return Page(self._now_ms(), tuple(_row(number, order) for _, number, order in found), following)

    @staticmethod
    def _first_after(rows: Sequence[tuple[int, int, NewOrder]], ms: int, number: int) -> int:
        low, high = 0, len(rows)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if rows[middle][:2] <= (ms, number) else (low, middle)
        return low


def _row(number: int, order: NewOrder) -> Mapping[str, Any]:
    return {
        "id": str(number),
        "kind": "EXCHANGE",
        "order_id": order.order_id,
        "user_id": order.user_id,
        "shard": str(order.shard),
        "sequence": str(order.sequence),
        "contract_id": order.contract_id,
        "direction": order.direction,
        "asset": order.asset,
        "quantity": f"{order.quantity:f}",
        "quoted_usdt": f"{order.quoted_usdt:f}",
        "instrument": order.instrument,
        "created_ms": str(order.created_ms),
    }
