"""The HTTP side of the three counterparties: signed calls, signed questions, and the counter's
unsigned side for users.

They are plain ASGI callables: a signed call costs the sandbox less than the framework's routing
would.
"""

import asyncio
import re
from collections.abc import Callable
from functools import partial
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from sandbox.channel import Channel
from sandbox.config import SandboxConfig
from sandbox.faults import FaultBoard, play
from sandbox.operations import Operations, Twist
from sandbox.problems import Answer, Problem
from sandbox.requests import identify
from sandbox.signatures import Signatures

Read = Callable[[Channel], Answer]
Write = Callable[[bytes], Answer]
PRODUCTION = b"(production)"  # how the service names itself
INTEGER = re.compile(r"[0-9]{1,18}", re.ASCII)
INTEGER_MAX = 10**18 - 1


class Gate:
    """What every signed endpoint shares: who may call, what shall go wrong, and the clock."""

    def __init__(self, config: SandboxConfig, board: FaultBoard, operations: Operations, stopping: asyncio.Event) -> None:
        self.board = board
        self.operations = operations
        self.stopping = stopping
        self._signatures = Signatures(config.keys, config.signature_validity_ms)
        self._clock_ms = config.clock_ms

    def check(self, counterparty: str, channel: Channel, headers: dict[bytes, bytes], body: bytes) -> None:
        if headers.get(b"user-agent", b"").endswith(PRODUCTION):
            raise Problem(403, "production_refused", "this is a sandbox: money that is real elsewhere must not meet it; name the real service")
        self._signatures.check(
            counterparty,
            method=channel.scope["method"],
            target=channel.target,
            timestamp=headers.get(b"x-timestamp", b""),
            body=body,
            signature=headers.get(b"x-signature", b""),
            now_ms=self._clock_ms(),
        )


class Mutation:
    """A counterparty's one mutating call."""

    def __init__(self, gate: Gate, counterparty: str, operation: str) -> None:
        self._gate = gate
        self._counterparty = counterparty
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        channel = Channel(scope, receive, send, self._gate.stopping)
        try:
            await self._handle(channel)
        except Problem as problem:
            await channel.answer(problem.answer())

    async def _handle(self, channel: Channel) -> None:
        raw, headers = await channel.body(), channel.headers()
        self._gate.check(self._counterparty, channel, headers, raw)
        call = identify(self._counterparty, raw, headers.get(b"idempotency-key", b"").decode("latin-1"))
        operations = self._gate.operations
        fault = self._gate.board.pick(self._counterparty, self._operation, call.order_id)
        if fault is None:
            operations.refuse_if_in_work(call)
            await channel.answer(operations.run(call))
            return
        operations.enter(call)
        try:
            await play(fault, channel, partial(operations.run, call))
        finally:
            operations.leave(call)


class Question:
    """A signed GET: `read` answers it, faults of `operation` may get in the way."""

    def __init__(self, gate: Gate, counterparty: str, operation: str, read: Read) -> None:
        self._gate = gate
        self._counterparty = counterparty
        self._operation = operation
        self._read = read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        channel = Channel(scope, receive, send, self._gate.stopping)
        try:
            await self._handle(channel)
        except Problem as problem:
            await channel.answer(problem.answer())

    async def _handle(self, channel: Channel) -> None:
        raw = await channel.body()
        self._gate.check(self._counterparty, channel, channel.headers(), raw)
        order_id = key_in(channel).partition(":")[0] if self._operation == "status" else None
        fault = self._gate.board.pick(self._counterparty, self._operation, order_id)
        if fault is None:
            await channel.answer(self._read(channel))
            return
        await play(fault, channel, partial(self._act, channel))

    def _act(self, channel: Channel, twist: Twist) -> Answer:
        return self._read(channel)


class UserCall:
    """An unsigned POST of the counter's users."""

    def __init__(self, gate: Gate, write: Write) -> None:
        self._gate = gate
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        channel = Channel(scope, receive, send, self._gate.stopping)
        try:
            answer = self._write(await channel.body())
        except Problem as problem:
            answer = problem.answer()
        await channel.answer(answer)


def key_in(channel: Channel) -> str:
    """The key at the end of a status question's path."""
    key: str = channel.scope["path_params"]["key"]
    return key


def parameters(channel: Channel) -> dict[str, str]:
    return dict(parse_qsl(channel.scope["query_string"].decode("latin-1"), keep_blank_values=True))


def integer(values: dict[str, str], name: str, *, default: int | None = None, least: int = 0, most: int = INTEGER_MAX) -> int:
    """A whole number from a query; a 400 problem when it is missing (without a default), malformed
    or out of bounds.
    """
    value = values.get(name)
    if value is None and default is not None:
        return default
    if value is None or INTEGER.fullmatch(value) is None or not least <= int(value) <= most:
        raise Problem(400, "invalid_request", f"{name} is a whole number from {least} to {most}")
    return int(value)
