"""Serving the sandbox: one process, no children. uvicorn with httptools, because it costs half the
CPU of granian's embedded server here (65 against 130 µs a call), stays one process, and gives a
connection out of hand to be broken on purpose.
"""

import signal
import socket
import sys
from types import FrameType

import uvicorn

from sandbox.app import SandboxApp, build_app
from sandbox.channel import ResettableProtocol
from sandbox.config import SandboxConfig

BACKLOG = 2048
GRACE_SECONDS = 1  # for answers in flight when the sandbox is told to stop


class Server(uvicorn.Server):
    """Stops at once: whoever holds a connection open on purpose is told to let go."""

    def __init__(self, config: uvicorn.Config, app: SandboxApp) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.parts.stopping.set()
        super().handle_exit(sig, frame)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `OSError` when the address is taken."""
    # With the protocol named: asyncio sets TCP_NODELAY only then, and without it a delayed ACK
    # makes every answer wait 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def serve(config: SandboxConfig, listener: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT, then ends the process with exit code 0."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)  # uvicorn takes these over while it serves, and raises the signal again afterwards
    app = build_app(config)
    settings = uvicorn.Config(
        app,
        http=ResettableProtocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    Server(settings, app).run(sockets=[listener])


def _leave(_: int, _frame: FrameType | None) -> None:
    sys.exit(0)
