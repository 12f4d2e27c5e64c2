"""Mutating calls under idempotency keys: key and effect are written in one transaction, and a key's
answer never changes once it is final.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from sandbox.problems import Answer, Problem, Rejection, ok
from sandbox.storage import KeyRow, Storage

RETRY_AFTER_MS = 100  # how soon to ask again for a call that is being worked on


class Call(NamedTuple):
    """One mutating call: `request` is the body's exact bytes."""

    counterparty: str
    key: str
    order_id: str
    request: bytes


class Twist(NamedTuple):
    """What a fault changes about a call's first execution: refuse it, execute a part, at a multiple
    of the market's price, or do it only later.
    """

    refusal: Rejection | None = None
    fraction: Decimal | None = None
    defer_ms: int | None = None
    factor: Decimal = Decimal(1)


class Effect(Protocol):
    """What a counterparty does for a call, inside the transaction that writes the key.

    Returns the answer's own fields; raises `Rejection`, which undoes whatever was written.
    """

    operation: str

    def apply(self, request: bytes, *, key: str, at_ms: int, fraction: Decimal | None, factor: Decimal) -> Mapping[str, Any]: ...


STRAIGHT = Twist()


class Operations:
    """Runs calls and answers for their keys. `later` is called with the milliseconds after which a
    deferred call is due.
    """

    def __init__(self, storage: Storage, effects: Mapping[str, Effect], clock_ms: Callable[[], int], later: Callable[[int], None]) -> None:
        self._storage = storage
        self._effects = effects
        self._clock_ms = clock_ms
        self._later = later
        self._in_work: dict[tuple[str, str], Call] = {}

    def enter(self, call: Call) -> None:
        """Marks a call that will be executed after a wait; a call under a key that is already
        marked is a 409 (or 422 with other bytes).
        """
        self.refuse_if_in_work(call)
        self._in_work[call.counterparty, call.key] = call

    def leave(self, call: Call) -> None:
        if self._in_work.get((call.counterparty, call.key)) is call:
            del self._in_work[call.counterparty, call.key]

    def refuse_if_in_work(self, call: Call) -> None:
        other = self._in_work.get((call.counterparty, call.key))
        if other is not None:
            _refuse_other_bytes(other.request, call)
            raise _still_working(call.key)

    def run(self, call: Call, twist: Twist = STRAIGHT) -> Answer:
        """The answer of a first call, or the stored one of a repeat. Raises `Problem` for a key
        that is reused or in progress.
        """
        now_ms = self._clock_ms()
        try:
            with self._storage.transaction():
                stored = self._storage.find_key(call.counterparty, call.key)
                return self._first(call, twist, now_ms) if stored is None else _again(stored, call)
        except Rejection as rejection:
            return self._keep_rejection(call, rejection, now_ms, created_at_ms=now_ms)
        finally:
            self.leave(call)

    def status(self, counterparty: str, key: str) -> Answer:
        """What is known of the key as of now; 404 `unknown_key` when it was never applied."""
        stored = self._storage.find_key(counterparty, key)
        if stored is not None:
            return ok({"key": key, "state": stored.state, **self._detail(stored)})
        if (counterparty, key) in self._in_work:
            return ok({"key": key, "state": "in_progress", "retry_after_ms": RETRY_AFTER_MS})
        raise Problem(404, "unknown_key", f"{counterparty} never applied the key {quote(key)}, as of now")

    def complete_due(self) -> None:
        """Executes the deferred calls whose time has come, and asks to be called again for the next
        one.
        """
        for row in self._storage.keys_in_progress():
            wait_ms = (row.due_at_ms or 0) - self._clock_ms()
            if wait_ms > 0:
                self._later(wait_ms)
                return
            self._complete(row)

    def _first(self, call: Call, twist: Twist, now_ms: int) -> Answer:
        if twist.refusal is not None:
            raise twist.refusal
        if twist.defer_ms is not None:
            return self._defer(call, twist, now_ms)
        return self._apply(call, twist.fraction, now_ms, created_at_ms=now_ms, factor=twist.factor)

    def _apply(self, call: Call, fraction: Decimal | None, now_ms: int, *, created_at_ms: int, factor: Decimal = Decimal(1)) -> Answer:
        effect = self._effects[call.counterparty]
        fields = effect.apply(call.request, key=call.key, at_ms=now_ms, fraction=fraction, factor=factor)
        reference = f"{call.counterparty}-{call.key}"
        answer = ok({"key": call.key, "state": "done", "reference": reference, "done_at_ms": now_ms, **fields})
        self._storage.add_effect(call.counterparty, effect.operation, call.key, call.order_id, now_ms, call.request, answer.body)
        self._storage.keep_key(KeyRow(call.counterparty, call.key, "done", call.request, answer.status, answer.body, created_at_ms))
        return answer

    def _defer(self, call: Call, twist: Twist, now_ms: int) -> Answer:
        wait_ms = twist.defer_ms or 0
        answer = _accepted(call.key, wait_ms)
        fraction = None if twist.fraction is None else str(twist.fraction)
        row = KeyRow(call.counterparty, call.key, "in_progress", call.request, answer.status, answer.body, now_ms, now_ms + wait_ms, fraction)
        self._storage.keep_key(row)
        self._later(wait_ms)
        return answer

    def _complete(self, row: KeyRow) -> None:
        call = Call(row.counterparty, row.key, _order_id(row.request), row.request)
        fraction = None if row.fraction is None else Decimal(row.fraction)
        now_ms = self._clock_ms()
        try:
            with self._storage.transaction():
                self._apply(call, fraction, now_ms, created_at_ms=row.created_at_ms)
        except Rejection as rejection:
            self._keep_rejection(call, rejection, now_ms, created_at_ms=row.created_at_ms)

    def _keep_rejection(self, call: Call, rejection: Rejection, now_ms: int, *, created_at_ms: int) -> Answer:
        answer = rejection.answer()
        with self._storage.transaction():
            self._storage.keep_key(KeyRow(call.counterparty, call.key, "rejected", call.request, answer.status, answer.body, created_at_ms))
        return answer

    def _detail(self, stored: KeyRow) -> dict[str, Any]:
        if stored.state == "done":
            return {"result": msgspec.Raw(stored.response)}
        if stored.state == "rejected":
            return {"status": stored.status, "problem": msgspec.Raw(stored.response)}
        return {"retry_after_ms": max(1, (stored.due_at_ms or 0) - self._clock_ms())}


def _again(stored: KeyRow, call: Call) -> Answer:
    _refuse_other_bytes(stored.request, call)
    if stored.state == "in_progress":
        raise _still_working(call.key)
    return Answer(stored.status, stored.response)


def _refuse_other_bytes(known: bytes, call: Call) -> None:
    if known != call.request:
        raise Problem(422, "key_reused", f"the key {call.key} was used before with another body: a changed request needs a key of its own")


def _still_working(key: str) -> Problem:
    return Problem(409, "in_progress", f"the key {key} is being worked on: ask for its status", retry_after_seconds=1)


def _accepted(key: str, wait_ms: int) -> Answer:
    return ok({"key": key, "state": "in_progress", "retry_after_ms": max(1, wait_ms)}, status=202)


def _order_id(request: bytes) -> str:
    return str(msgspec.json.decode(request)["order_id"])
