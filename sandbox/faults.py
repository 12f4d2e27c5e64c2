"""Faults on demand: a board of what shall go wrong, and the playing of one fault on one call.

kind                 what happens
latency              waits `latency_ms`, then handles the call; meanwhile its key is in progress
status               answers `status` with `code`, applies nothing (429: Retry-After, `scope`)
refuse               a final rejection: `status` 400, 404 or 410 with `code`, stored under the key
partial              an exchange executes only `fraction` of the amount
absurd_price         an exchange executes at `factor` times the market's price, and says so
apply_then_timeout   applies, then holds the connection (`latency_ms` at most)
apply_then_reset     applies, then breaks the connection
apply_then_5xx       applies, then answers `status`
reset                breaks the connection, nothing is applied
garbage              applies, then answers 200 with something that is no JSON
in_progress          answers 202; the effect comes `latency_ms` later
drip                 applies, then sends the answer a byte every `latency_ms`
stale                answers 401 `signature_stale`, nothing is applied
no_sync_row          of operation `place` alone: the order gets no row in the sync-order table
not_streamed         of operation `place` alone: the row is written but never published
"""

import random
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from typing import Any, Literal

import msgspec

from sandbox.channel import Channel
from sandbox.operations import STRAIGHT, Twist
from sandbox.problems import DEFAULT_CODES, FINAL_STATUSES, Answer, Problem, Rejection

Kind = Literal[
    "latency",
    "status",
    "refuse",
    "partial",
    "absurd_price",
    "apply_then_timeout",
    "apply_then_reset",
    "apply_then_5xx",
    "reset",
    "garbage",
    "in_progress",
    "drip",
    "stale",
    "no_sync_row",
    "not_streamed",
]
DEFAULT_STATUS = {"refuse": 400}
DEFAULT_CODE = {"refuse": "insufficient_funds"}
DEFAULT_LATENCY_MS = {"latency": 1_000, "apply_then_timeout": 30_000, "in_progress": 1_000, "drip": 100}
ONLY_MUTATING = ("refuse", "partial", "absurd_price", "in_progress")
ONLY_EXCHANGES = ("partial", "absurd_price")
ONLY_PLACING = ("no_sync_row", "not_streamed")
FACTOR_MAX = 1_000_000
GARBAGE = b"<html><body>It works!</body></html>"


class FaultRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is asked of POST /sandbox/faults; `count` None goes on until it is deleted, `match` is a
    prefix of order ids.
    """

    kind: Kind
    counterparty: Literal["counter", "fund", "trading", "*"] = "*"
    operation: Literal["adjust", "transfer", "exchange", "status", "sync_orders", "orders", "place", "*"] = "*"
    probability: float = 1.0
    count: int | None = None
    status: int | None = None
    code: str | None = None
    latency_ms: int | None = None
    fraction: str = "0.5"
    factor: str = "10"
    scope: Literal["", "all"] = ""
    match: str | None = None


class Fault:
    """A request that was checked, with its defaults filled in."""

    def __init__(self, number: int, request: FaultRequest) -> None:
        self.id = str(number)
        self.request = request
        self.kind = request.kind
        self.left = request.count
        self.hits = 0
        self.latency_ms = DEFAULT_LATENCY_MS.get(self.kind, 0) if request.latency_ms is None else request.latency_ms
        self.status = request.status or DEFAULT_STATUS.get(self.kind, 500)
        self.code = request.code or DEFAULT_CODE.get(self.kind) or DEFAULT_CODES.get(self.status, "injected_fault")

    def hits_call(self, counterparty: str, operation: str, order_id: str | None) -> bool:
        request = self.request
        return (
            request.counterparty in {"*", counterparty}
            and request.operation in {"*", operation}
            and (request.match is None or (order_id or "").startswith(request.match))
            and (self.kind not in ONLY_MUTATING or operation in {"adjust", "transfer", "exchange"})
            and (self.kind not in ONLY_EXCHANGES or operation == "exchange")
            and (self.kind in ONLY_PLACING) == (operation == "place")
        )

    def twist(self) -> Twist:
        """What the fault changes about the call's execution itself."""
        if self.kind == "refuse":
            return Twist(refusal=Rejection(self.status, self.code, "refused by a fault"))
        if self.kind == "partial":
            return Twist(fraction=Decimal(self.request.fraction))
        if self.kind == "absurd_price":
            return Twist(factor=Decimal(self.request.factor))
        if self.kind == "in_progress":
            return Twist(defer_ms=self.latency_ms)
        return STRAIGHT

    def problem(self) -> Answer:
        wait = max(1, -(-self.latency_ms // 1000)) if self.status == 429 else None  # noqa: PLR2004 the status by its number
        return Problem(self.status, self.code, "answered so by a fault", retry_after_seconds=wait, scope=self.request.scope if wait else "").answer()

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "hits": self.hits, "left": self.left, **msgspec.structs.asdict(self.request)}


class FaultBoard:
    """The faults in force, in the order in which they were set; the first that fits a call is
    played.
    """

    def __init__(self, *, seed: int | None) -> None:
        self._random = random.Random(seed)
        self._faults: dict[str, Fault] = {}
        self._numbers = 0

    def add(self, request: FaultRequest) -> Fault:
        """Raises a 400 problem for values that make no sense."""
        _check(request)
        self._numbers += 1
        fault = Fault(self._numbers, request)
        self._faults[fault.id] = fault
        return fault

    def remove(self, fault_id: str | None) -> int:
        """Takes one fault down, or all of them; returns how many."""
        doomed = list(self._faults) if fault_id is None else [fault_id] * (fault_id in self._faults)
        for known in doomed:
            del self._faults[known]
        return len(doomed)

    def as_json(self) -> list[dict[str, Any]]:
        return [fault.as_json() for fault in self._faults.values()]

    def pick(self, counterparty: str, operation: str, order_id: str | None) -> Fault | None:
        """The fault for this call, counted as used."""
        for fault in self._faults.values():
            if fault.hits_call(counterparty, operation, order_id) and self._random.random() < fault.request.probability:
                self._use(fault)
                return fault
        return None

    def _use(self, fault: Fault) -> None:
        fault.hits += 1
        if fault.left is not None:
            fault.left -= 1
            if not fault.left:
                del self._faults[fault.id]


def _check(request: FaultRequest) -> None:
    if request.kind == "refuse" and (request.status or 400) not in FINAL_STATUSES:
        raise Problem(400, "invalid_request", f"a refusal is final: its status is one of {FINAL_STATUSES}")
    if request.status is not None and request.status not in DEFAULT_CODES:
        raise Problem(400, "invalid_request", f"status is one of {sorted(DEFAULT_CODES)}")
    if (request.latency_ms or 0) < 0 or (request.count is not None and request.count < 1) or not 0 < request.probability <= 1:
        raise Problem(400, "invalid_request", "latency_ms is at least 0, count at least 1, probability above 0 and at most 1")
    try:
        fraction, factor = Decimal(request.fraction), Decimal(request.factor)
    except ArithmeticError as error:
        raise Problem(400, "invalid_request", "fraction and factor are decimal strings") from error
    if not (factor.is_finite() and 0 < factor <= FACTOR_MAX):
        raise Problem(400, "invalid_request", f"factor lies above 0 and is at most {FACTOR_MAX}")
    if not (fraction.is_finite() and 0 < fraction < 1):
        raise Problem(400, "invalid_request", "fraction lies between 0 and 1")


Act = Callable[[Twist], Answer]


async def play(fault: Fault, channel: Channel, act: Act) -> None:
    """Answers the call as the fault wants it; `act` handles the call, and what it says, a problem
    too, is subject to the fault.
    """
    player = PLAYERS.get(fault.kind, _twisted)
    await player(fault, channel, partial(_outcome, act))


def _outcome(act: Act, twist: Twist) -> Answer:
    try:
        return act(twist)
    except Problem as problem:
        return problem.answer()


async def _twisted(fault: Fault, channel: Channel, act: Act) -> None:
    await channel.answer(act(fault.twist()))


async def _latency(fault: Fault, channel: Channel, act: Act) -> None:
    await channel.pause(fault.latency_ms)
    await channel.answer(act(STRAIGHT))


async def _status(fault: Fault, channel: Channel, _: Act) -> None:
    await channel.answer(fault.problem())


async def _stale(_: Fault, channel: Channel, _act: Act) -> None:
    await channel.answer(Problem(401, "signature_stale", "called stale by a fault").answer())


async def _reset(_: Fault, channel: Channel, _act: Act) -> None:
    await channel.reset()


async def _apply_then_timeout(fault: Fault, channel: Channel, act: Act) -> None:
    act(STRAIGHT)
    await channel.hold(fault.latency_ms)


async def _apply_then_reset(_: Fault, channel: Channel, act: Act) -> None:
    act(STRAIGHT)
    await channel.reset()


async def _apply_then_5xx(fault: Fault, channel: Channel, act: Act) -> None:
    act(STRAIGHT)
    await channel.answer(fault.problem())


async def _garbage(_: Fault, channel: Channel, act: Act) -> None:
    act(STRAIGHT)
    await channel.answer(Answer(200, GARBAGE))


async def _drip(fault: Fault, channel: Channel, act: Act) -> None:
    await channel.drip(act(STRAIGHT), fault.latency_ms)


PLAYERS: dict[str, Callable[[Fault, Channel, Act], Awaitable[None]]] = {
    "latency": _latency,
    "status": _status,
    "stale": _stale,
    "reset": _reset,
    "apply_then_timeout": _apply_then_timeout,
    "apply_then_reset": _apply_then_reset,
    "apply_then_5xx": _apply_then_5xx,
    "garbage": _garbage,
    "drip": _drip,
}
