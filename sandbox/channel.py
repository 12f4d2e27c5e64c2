"""One request's way in and out: reading the body, sending an answer, and the ways in which an
answer can fail to come.
"""

import asyncio
import socket
import struct
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandbox.problems import Answer, Problem

BODY_BYTES_MAX = 1_000_000
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger
TRANSPORT = "sandbox.transport"


class ResettableProtocol(HttpToolsProtocol):
    """Hands the connection itself to the application, which can then break it: ASGI has no message
    for that.
    """

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]


class Channel:
    """A request's scope and its two callables; `stopping` ends whatever holds a connection open."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, stopping: asyncio.Event) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._stopping = stopping

    @property
    def target(self) -> bytes:
        """Path and query as they were sent."""
        query: bytes = self.scope["query_string"]
        path: bytes = self.scope["raw_path"]
        return path + b"?" + query if query else path

    def headers(self) -> dict[bytes, bytes]:
        return dict(self.scope["headers"])

    async def body(self) -> bytes:
        message = await self._receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body", False):
            message = await self._receive()
            body += message.get("body", b"")
            if len(body) > BODY_BYTES_MAX:
                raise Problem(400, "invalid_request", f"a body has at most {BODY_BYTES_MAX} bytes")
        return body

    async def answer(self, answer: Answer) -> None:
        await self._start(answer)
        await self._send({"type": "http.response.body", "body": answer.body})

    async def drip(self, answer: Answer, pause_ms: int) -> None:
        """Sends the body a byte at a time, so that every read succeeds and the whole takes long."""
        await self._start(answer)
        for index in range(len(answer.body)):
            await self.pause(pause_ms)
            await self._send({"type": "http.response.body", "body": answer.body[index : index + 1], "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def pause(self, milliseconds: int) -> None:
        """Waits so long, or until the server stops."""
        if milliseconds <= 0:
            return
        try:
            await asyncio.wait_for(self._stopping.wait(), milliseconds / 1000)
        except TimeoutError:
            return

    async def hold(self, milliseconds: int) -> None:
        """Says nothing until the client hangs up, so long at most, then breaks the connection."""
        gone = asyncio.ensure_future(self._gone())
        stopped = asyncio.ensure_future(self._stopping.wait())
        _, waiting = await asyncio.wait({gone, stopped}, timeout=milliseconds / 1000, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await self.reset()

    async def reset(self) -> None:
        """Breaks the connection (RST) without an answer."""
        transport: Any = self.scope[TRANSPORT]
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None and not transport.is_closing():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()
        await self._gone()

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _start(self, answer: Answer) -> None:
        headers = [(b"content-type", answer.content_type), (b"content-length", str(len(answer.body)).encode())]
        if answer.retry_after_seconds is not None:
            headers.append((b"retry-after", str(answer.retry_after_seconds).encode()))
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
