"""The three counterparties in memory, for tests and benchmarks: the contract's keys, stored
answers, status queries and faults, without a socket.

They stand in for the connection, not for the gateways: what is classified and read is what comes
over HTTP, too. A `Fault` makes the next calls go wrong; its kinds are those of the sandbox, and
`unreachable`.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, Literal
from urllib.parse import unquote

import msgspec

from base.http import AnswerLost, HttpAnswer, NotSent
from clearing.gateways.http import Limits, over
from clearing.gateways.ports import Gateways
from clearing.gateways.types import Action, Counterparty

ACTIONS: Final = {Counterparty.COUNTER: Action.ADJUST, Counterparty.FUND: Action.TRANSFER, Counterparty.TRADING: Action.EXCHANGE}
SIGNATURE_VALIDITY_MS: Final = 30_000
LIMITS: Final = Limits(deadline_ms=5_000, calls_max=64, slot_wait_ms=50)
UNITS: Final = {"USDT": Decimal("0.000001"), "BTC": Decimal("0.00000001"), "ETH": Decimal("0.00000001")}
MIN_LOTS: Final = {"USDT": Decimal(1), "BTC": Decimal("0.00001"), "ETH": Decimal("0.0001")}
REFUSALS: Final = {400: "insufficient_funds", 404: "account_unknown", 410: "contract_closed"}
GARBAGE: Final = b"<html><body>It works!</body></html>"


class FaultKind(StrEnum):
    UNREACHABLE = "unreachable"  # no connection: nothing is sent
    LATENCY = "latency"  # waits latency_ms, then as always; the caller's deadline ends the wait
    STATUS = "status"  # answers status with code; nothing is applied or kept
    REFUSE = "refuse"  # a final rejection, kept under the key
    PARTIAL = "partial"  # an exchange executes only a fraction
    ABSURD_PRICE = "absurd_price"  # an exchange executes at `factor` times the price, and says so
    APPLY_THEN_TIMEOUT = "apply_then_timeout"
    APPLY_THEN_RESET = "apply_then_reset"
    APPLY_THEN_5XX = "apply_then_5xx"
    RESET = "reset"  # the connection breaks; nothing is applied
    GARBAGE = "garbage"  # applies, then answers what is no JSON
    IN_PROGRESS = "in_progress"  # answers 202; the effect comes latency_ms later
    STALE = "stale"  # calls the signature stale


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong; the fields besides `kind` are for the kinds that name them."""

    kind: FaultKind
    status: int = 500
    code: str = ""
    latency_ms: int = 0
    fraction: Decimal = Decimal("0.5")
    factor: Decimal = Decimal(10)
    scope: str = ""  # of a 429


@dataclass(frozen=True, slots=True)
class Applied:
    """An effect that took place; two of one key would be money gone."""

    counterparty: Counterparty
    action: Action
    key: str
    order_id: str
    request: Mapping[str, Any]
    result: Mapping[str, Any]


@dataclass(slots=True)
class _Scripted:
    operation: str
    fault: Fault
    left: int
    match: str


class FakeCounterparties:
    """Counter, fund and trading. `prices` are in USDT per coin; `applied` is every effect that took
    place, in order. Safe in threads.
    """

    def __init__(self, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self.clock_ms = clock_ms
        self.prices = {"BTC": Decimal(60_000), "ETH": Decimal(3_000)}
        self.applied: list[Applied] = []
        self._lock = threading.Lock()
        self._faults: list[_Scripted] = []
        self._services = {counterparty: _Service(counterparty, self) for counterparty in Counterparty}

    def gateways(self, limits: Limits = LIMITS) -> Gateways:
        """Gateways that call these counterparties."""
        return over(self._services.__getitem__, limits)

    def script(self, operation: Action | Literal["status", "*"], fault: Fault, times: int = 1, match: str = "") -> None:
        """Makes the next `times` calls of an operation go wrong, for orders whose id begins with
        `match`.
        """
        with self._lock:
            self._faults.append(_Scripted(operation, fault, times, match))

    def pick_fault(self, operation: str, order_id: str) -> Fault | None:
        """The fault for this call, counted as used."""
        with self._lock:
            for scripted in self._faults:
                if scripted.left and scripted.operation in {"*", operation} and order_id.startswith(scripted.match):
                    scripted.left -= 1
                    return scripted.fault
        return None


class _Refused(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.answer = _problem(status, code)


@dataclass(slots=True)
class _Kept:
    """What is kept under a key; without an answer it is in progress, and applied at `due_ms`."""

    request: bytes
    answer: HttpAnswer | None
    due_ms: int = 0


class _Service:
    """One counterparty, in the place of the connection to it."""

    def __init__(self, counterparty: Counterparty, world: FakeCounterparties) -> None:
        self._counterparty = counterparty
        self._action = ACTIONS[counterparty]
        self._world = world
        self._lock = threading.Lock()  # key and effect are one
        self._keys: dict[str, _Kept] = {}

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        deadline_ms: int,
        timestamp_ms: int,
    ) -> HttpAnswer:
        """As `base.http.SignedClient.request`."""
        key = unquote(path.rpartition("/")[2]) if method == "GET" else (headers or {})["Idempotency-Key"]
        fault = self._world.pick_fault("status" if method == "GET" else self._action, key.partition(":")[0])
        if abs(self._world.clock_ms() - timestamp_ms) > SIGNATURE_VALIDITY_MS:
            return _problem(401, "signature_stale")

        def act() -> HttpAnswer:
            return self._status(key) if method == "GET" else self._call(key, body, fault)

        return act() if fault is None else _play(fault, act, deadline_ms)

    def _call(self, key: str, request: bytes, fault: Fault | None) -> HttpAnswer:
        with self._lock:
            kept = self._settled(key)
            if kept is None:
                return self._first(key, request, fault)
            if kept.request != request:
                return _problem(422, "key_reused")
            return kept.answer or _problem(409, "in_progress")

    def _status(self, key: str) -> HttpAnswer:
        with self._lock:
            kept = self._settled(key)
            return _problem(404, "unknown_key") if kept is None else _json(200, {"key": key, **_state(kept)})

    def _settled(self, key: str) -> _Kept | None:
        """What is kept under the key, once what fell due in the meantime was applied."""
        kept = self._keys.get(key)
        if kept is not None and kept.answer is None and self._world.clock_ms() >= kept.due_ms:
            kept.answer = self._execute(key, kept.request, None)
        return kept

    def _first(self, key: str, request: bytes, fault: Fault | None) -> HttpAnswer:
        if fault is not None and fault.kind == FaultKind.IN_PROGRESS:
            self._keys[key] = _Kept(request, None, self._world.clock_ms() + fault.latency_ms)
            return _json(202, {"key": key, "state": "in_progress", "retry_after_ms": max(1, fault.latency_ms)})
        answer = self._execute(key, request, fault)
        self._keys[key] = _Kept(request, answer)
        return answer

    def _execute(self, key: str, request: bytes, fault: Fault | None) -> HttpAnswer:
        body = msgspec.json.decode(request)
        try:
            fields = _effect(self._action, body, self._world.prices, fault)
        except _Refused as refused:
            return refused.answer
        reference = f"{self._counterparty}-{key}"
        result = {"key": key, "state": "done", "reference": reference, "done_at_ms": self._world.clock_ms(), **fields}
        self._world.applied.append(Applied(self._counterparty, self._action, key, body["order_id"], body, result))
        return _json(200, result)


def _play(fault: Fault, act: Callable[[], HttpAnswer], deadline_ms: int) -> HttpAnswer:
    """Answers the call as the fault wants it; `act` handles the call."""
    match fault.kind:
        case FaultKind.UNREACHABLE:
            raise NotSent("connection_refused")
        case FaultKind.RESET:
            raise AnswerLost("connection_lost")
        case FaultKind.STATUS:
            return _problem(fault.status, fault.code or "injected_fault", wait_ms=fault.latency_ms, scope=fault.scope)
        case FaultKind.STALE:
            return _problem(401, "signature_stale")
        case FaultKind.LATENCY:
            return _late(fault, act, deadline_ms)
        case _:
            return _spoil(fault, act())


def _spoil(fault: Fault, answer: HttpAnswer) -> HttpAnswer:
    """What becomes of the answer to a call that was handled."""
    match fault.kind:
        case FaultKind.APPLY_THEN_TIMEOUT:
            raise AnswerLost("timeout")
        case FaultKind.APPLY_THEN_RESET:
            raise AnswerLost("connection_lost")
        case FaultKind.APPLY_THEN_5XX:
            return _problem(fault.status, fault.code or "injected_fault")
        case FaultKind.GARBAGE:
            return HttpAnswer(200, "text/html", None, GARBAGE)
        case _:
            return answer


def _late(fault: Fault, act: Callable[[], HttpAnswer], deadline_ms: int) -> HttpAnswer:
    """The call is handled even when its caller no longer waits for the answer."""
    time.sleep(min(fault.latency_ms, deadline_ms) / 1000)
    answer = act()
    if fault.latency_ms >= deadline_ms:
        raise AnswerLost("timeout")
    return answer


def _effect(action: Action, body: Mapping[str, Any], prices: Mapping[str, Decimal], fault: Fault | None) -> dict[str, str]:
    """The answer's own fields."""
    if fault is not None and fault.kind == FaultKind.REFUSE:
        status = fault.status if fault.status in REFUSALS else 400
        raise _Refused(status, fault.code or REFUSALS[status])
    match action:
        case Action.ADJUST:
            _require_amounts(body["quantity"], body["usdt"])
            return {name: body[name] for name in ("asset", "quantity", "usdt")}
        case Action.TRANSFER:
            _require_amounts(body["amount"])
            return {name: body[name] for name in ("asset", "amount", "source", "destination")}
        case Action.EXCHANGE:
            fraction = fault.fraction if fault is not None and fault.kind == FaultKind.PARTIAL else Decimal(1)
            factor = fault.factor if fault is not None and fault.kind == FaultKind.ABSURD_PRICE else Decimal(1)
            return _exchanged(body["sell_asset"], Decimal(body["sell_amount"]), body["buy_asset"], prices, fraction, factor)


def _exchanged(sell: str, amount: Decimal, buy: str, prices: Mapping[str, Decimal], fraction: Decimal, factor: Decimal) -> dict[str, str]:
    if amount < MIN_LOTS[sell]:
        raise _Refused(400, "below_min_lot")
    sold = (amount * fraction).quantize(UNITS[sell], rounding=ROUND_DOWN)
    price = prices[buy if sell == "USDT" else sell] * factor
    bought = (sold / price if sell == "USDT" else sold * price).quantize(UNITS[buy], rounding=ROUND_DOWN)
    amounts = {"sold": sold, "bought": bought, "price": price, "min_lot": MIN_LOTS[sell]}
    return {"sell_asset": sell, "buy_asset": buy, **{name: f"{value:f}" for name, value in amounts.items()}}


def _require_amounts(*amounts: str) -> None:
    if not all(Decimal(amount) > 0 for amount in amounts):
        raise _Refused(400, "amount_invalid")


def _state(kept: _Kept) -> dict[str, Any]:
    if kept.answer is None:
        return {"state": "in_progress", "retry_after_ms": 1}
    if kept.answer.status == HTTPStatus.OK:
        return {"state": "done", "result": msgspec.Raw(kept.answer.body)}
    return {"state": "rejected", "status": kept.answer.status, "problem": msgspec.Raw(kept.answer.body)}


def _json(status: int, content: Mapping[str, Any]) -> HttpAnswer:
    return HttpAnswer(status, "application/json", None, msgspec.json.encode(content))


def _problem(status: int, code: str, *, wait_ms: int = 0, scope: str = "") -> HttpAnswer:
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": "answered by the fake"}
    content |= {"scope": scope} if scope else {}
    wait_s = -(-wait_ms // 1000) if wait_ms else None
    return HttpAnswer(status, "application/problem+json", wait_s, msgspec.json.encode(content))
