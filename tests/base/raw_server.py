"""A server whose every connection is handled by a function of the test's, down to the byte."""

import hmac
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

OK = b'{"ok":true}'


@dataclass(frozen=True)
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def signature_under(self, key: str) -> str:
        """Computed apart from the code under test."""
        text = b"\n".join([self.method.encode(), self.target.encode(), self.headers["x-timestamp"].encode(), self.body])
        return hmac.new(key.encode(), text, "sha256").hexdigest()


def answer(status: str = "200 OK", body: bytes = OK, **headers: str) -> bytes:
    """The bytes of an answer; header names in keyword style."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Connection:
    """The server's end of one connection."""

    socket: socket.socket
    server: "RawServer"
    buffer: bytes = b""

    def read_request(self) -> Received | None:
        """The next request; None when the client has closed."""
        while b"\r\n\r\n" not in self.buffer:
            if not self._read_more():
                return None
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        self.buffer = rest
        while len(self.buffer) < length and self._read_more():
            pass
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        method, target, _ = first.split(" ")
        received = Received(method, target, headers, body)
        self.server.received.append(received)
        return received

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _read_more(self) -> bool:
        more = self.socket.recv(65_536)
        self.buffer += more
        return bool(more)


@dataclass
class RawServer:
    listener: socket.socket
    url: str
    received: list[Received] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def stop_listening(self) -> None:
        """From now on connections are refused."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def serve(self, handle: Callable[[Connection], None]) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            connection = Connection(client, self)
            self.connections.append(connection)
            self.threads.append(threading.Thread(target=_run, args=(handle, connection), daemon=True))
            self.threads[-1].start()


def _run(handle: Callable[[Connection], None], connection: Connection) -> None:
    try:
        handle(connection)
    except OSError:
        pass  # the client has gone, or doesn't trust us
    finally:
        connection.socket.close()


@contextmanager
def raw_server(handle: Callable[[Connection], None]) -> Iterator[RawServer]:
    """Serves on a free port until the end of the block."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = RawServer(listener, f"http://127.0.0.1:{listener.getsockname()[1]}")
    accepting = threading.Thread(target=server.serve, args=(handle,), daemon=True)
    accepting.start()
    try:
        yield server
    finally:
        server.stop_listening()
        accepting.join()
        for connection in server.connections:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in server.threads:
            thread.join()


def answering(data: bytes) -> Callable[[Connection], None]:
    """Answers every request of a connection with the same bytes."""

    def handle(connection: Connection) -> None:
        while connection.read_request() is not None:
            connection.send(data)

    return handle
