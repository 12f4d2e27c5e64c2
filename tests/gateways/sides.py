"""Two sets of counterparties behind one face, so that one suite can run against both: the fake, and
the sandbox over HTTP.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import count
from typing import Any, Literal, Protocol

from base.http import SignedClient
from clearing.gateways import Action, Adjustment, ClaimEnded, Counterparty, Exchange, Gateways, StoredRequest, Transfer
from clearing.gateways.fake import FakeCounterparties, Fault, FaultKind
from clearing.gateways.http import Limits, over
from tests.support.sandbox import SandboxServer

LIMITS = Limits(deadline_ms=1_000, calls_max=16, slot_wait_ms=50)
Operation = Action | Literal["status"]


@dataclass(frozen=True)
class Order:
    order_id: str
    user_id: str
    contract_id: str
    quantity: Decimal
    usdt: Decimal

    def adjustment(self) -> StoredRequest:
        """Step 1 of the order, an OPEN over BTC."""
        request = Adjustment(
            order_id=self.order_id,
            user_id=self.user_id,
            contract_id=self.contract_id,
            direction="OPEN",
            asset="BTC",
            quantity=self.quantity,
            usdt=self.usdt,
        )
        return self._stored(Counterparty.COUNTER, Action.ADJUST, 1, request)

    def transfer(self, amount: str = "12.5") -> StoredRequest:
        """Step 2."""
        request = Transfer(order_id=self.order_id, asset="USDT", amount=Decimal(amount), source="system", destination="fund")
        return self._stored(Counterparty.FUND, Action.TRANSFER, 2, request)

    def exchange(self, amount: str = "100", key_suffix: str = "") -> StoredRequest:
        """Step 3."""
        request = Exchange(order_id=self.order_id, sell_asset="USDT", sell_amount=Decimal(amount), buy_asset="BTC")
        return self._stored(Counterparty.TRADING, Action.EXCHANGE, 3, request, key_suffix)

    def request(self, action: Action) -> StoredRequest:
        """The order's request for an action."""
        match action:
            case Action.ADJUST:
                return self.adjustment()
            case Action.TRANSFER:
                return self.transfer()
            case Action.EXCHANGE:
                return self.exchange()

    def _stored(
        self, counterparty: Counterparty, action: Action, step: int, request: Adjustment | Transfer | Exchange, suffix: str = ""
    ) -> StoredRequest:
        key = f"{self.order_id}:{step}{suffix}"
        return StoredRequest(counterparty, action, key, request.encode(key))


class Side(Protocol):
    gateways: Gateways
    unreachable: Gateways

    def place(self) -> Order:
        """An order of its own for a test."""
        ...

    def goes_wrong(self, operation: Operation, kind: str, order: Order, *, times: int = 1, **fields: Any) -> None:
        """The next calls of the operation for the order."""
        ...

    def applied(self, order: Order) -> list[str]:
        """The keys of the order's effects that took place."""
        ...


class FakeSide:
    def __init__(self) -> None:
        self.counterparties = FakeCounterparties()
        self.gateways = self.counterparties.gateways(LIMITS)
        down = FakeCounterparties()
        down.script("*", Fault(kind=FaultKind.UNREACHABLE), times=1_000)
        self.unreachable = down.gateways(LIMITS)
        self._numbers = count(1)

    def place(self) -> Order:
        number = next(self._numbers)
        return Order(f"order-{number:05}", "1001", f"contract-{number}", Decimal("0.05"), Decimal("3050.12"))

    def goes_wrong(self, operation: Operation, kind: str, order: Order, *, times: int = 1, **fields: Any) -> None:
        for name in {"fraction", "factor"} & set(fields):
            fields[name] = Decimal(fields[name])
        self.counterparties.script(operation, Fault(kind=FaultKind(kind), **fields), times, order.order_id)

    def applied(self, order: Order) -> list[str]:
        return [effect.key for effect in self.counterparties.applied if effect.order_id == order.order_id]


class SandboxSide:
    def __init__(self, server: SandboxServer, closed_port: int) -> None:
        self._server = server
        self.gateways = over(lambda name: SignedClient(f"{server.base_url}/{name}", server.keys[name]), LIMITS)
        self.unreachable = over(lambda name: SignedClient(f"http://127.0.0.1:{closed_port}/{name}", server.keys[name]), LIMITS)

    def place(self) -> Order:
        placed = self._server.place("1001")
        return Order(placed["order_id"], "1001", placed["contract_id"], Decimal(placed["quantity"]), Decimal(placed["usdt"]))

    def goes_wrong(self, operation: Operation, kind: str, order: Order, *, times: int = 1, **fields: Any) -> None:
        self._server.set_fault(operation=operation, kind=kind, match=order.order_id, count=times, **fields)

    def applied(self, order: Order) -> list[str]:
        rows = self._server.open_page("/sandbox/operations?limit=5000")["rows"]
        return [row["key"] for row in rows if row["order_id"] == order.order_id]


class WallClock:
    """Signs with this machine's time, shifted by `offsets_ms` in turn; the last one stays."""

    def __init__(self, *offsets_ms: int) -> None:
        self._offsets_ms = list(offsets_ms) or [0]

    def timestamp_ms(self) -> int:
        offset = self._offsets_ms.pop(0) if len(self._offsets_ms) > 1 else self._offsets_ms[0]
        return time.time_ns() // 1_000_000 + offset


class EndedClock:
    """Of a claim that is over."""

    def timestamp_ms(self) -> int:
        raise ClaimEnded


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, held until the end of the block."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
