"""A TCP proxy before one server, which can cut every connection both ways, as a partition does, or
reset them.
"""

import contextlib
import socket
import struct
import threading
from typing import Self

from stack.ports import LOOPBACK, find_free

CHUNK = 65_536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with a reset


class Proxy:
    """Between one client and one server. While it is cut, connections stay open and carry nothing;
    afterwards they carry what was held back.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self.port = find_free(set())
        self._flows = threading.Event()
        self._flows.set()
        self._over = threading.Event()
        self._connections: set[socket.socket] = set()
        self._server = socket.create_server((LOOPBACK, self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def cut(self) -> None:
        self._flows.clear()

    def heal(self) -> None:
        self._flows.set()

    def reset(self) -> None:
        """Breaks every connection."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._over.set()
        self._flows.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.reset()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        self._flows.wait()
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        pair = {client, server}
        self._connections |= pair
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)
        back.join()
        self._connections -= pair
        for connection in pair:
            connection.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._flows.wait()
                sink.sendall(data)
        self._flows.wait()
        for connection in (source, sink):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
