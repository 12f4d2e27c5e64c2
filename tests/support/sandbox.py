"""A sandbox for tests, as a process or in a thread, and a small signed client for it."""

import hmac
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import uvicorn
from django.conf import settings

from sandbox.app import build_app
from sandbox.channel import ResettableProtocol
from sandbox.config import SandboxConfig
from sandbox.server import Server, bind

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60.0
LISTENS = re.compile(r"sandbox listens on (http://\S+:(\d+)),")


@dataclass(frozen=True)
class Reply:
    status: int
    raw: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


@dataclass
class SandboxServer:
    """One sandbox process with its own data folder; `start`, `kill` and `stop` keep address and
    data.
    """

    data: Path
    keys: dict[str, str]
    kafka: str
    options: tuple[str, ...] = ()
    port: int = 0
    base_url: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def counter_url(self) -> str:
        return f"{self.base_url}/counter"

    @property
    def fund_url(self) -> str:
        return f"{self.base_url}/fund"

    @property
    def trading_url(self) -> str:
        return f"{self.base_url}/trading"

    @property
    def log(self) -> Path:
        """What the process has written since its last start."""
        return self.data / "sandbox.log"

    def start(self) -> None:
        """Starts the process and waits until it listens."""
        self.data.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "manage.py", "sandbox", "--port", str(self.port), "--data", str(self.data), "--kafka", self.kafka, *self.options]
        keys = {f"{name.upper()}_KEY": key for name, key in self.keys.items()}
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=settings.BASE_DIR, env={**os.environ, **keys, **self.environment}, stdout=output, stderr=subprocess.STDOUT
            )
        self._await_listening()

    def kill(self) -> None:
        """SIGKILL, as a machine would lose it."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, sig: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(sig)
        try:
            return process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _await_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            found = LISTENS.search(self.log.read_text(encoding="utf-8"))
            if found and self._answers(int(found[2])):
                self.base_url, self.port = found[1], int(found[2])
                return
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.02)
        self._end(signal.SIGKILL)
        raise RuntimeError(f"the sandbox didn't start:\n{self.log.read_text(encoding='utf-8')}")

    @staticmethod
    def _answers(port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    # --- Calls ------------------------------------------------------------------------------------
    def call(
        self, counterparty: str, method: str, path: str, body: bytes = b"", *, key: str | None = None, at_ms: int | None = None, timeout: float = 10
    ) -> Reply:
        """One signed call; `path` begins after the counterparty's prefix."""
        target = f"/{counterparty}{path}"
        headers = signed_headers(self.keys[counterparty], method, target, body, at_ms=at_ms)
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.send(method, target, body, headers, timeout=timeout)

    def mutate(self, counterparty: str, path: str, fields: Mapping[str, Any], *, timeout: float = 10) -> Reply:
        """One signed POST under the key that the fields name."""
        return self.call(counterparty, "POST", path, json.dumps(fields).encode(), key=fields["key"], timeout=timeout)

    def status(self, counterparty: str, key: str) -> Reply:
        return self.call(counterparty, "GET", f"/v1/operations/{quote(key, safe='')}")

    def open_page(self, path: str) -> Any:
        """An unsigned GET that must succeed."""
        reply = self.send("GET", path)
        assert reply.status == 200, reply.raw
        return reply.json

    def post(self, path: str, fields: Mapping[str, Any]) -> Reply:
        """An unsigned POST: users' orders, and faults."""
        return self.send("POST", path, json.dumps(fields).encode())

    def set_fault(self, **fields: Any) -> str:
        reply = self.post("/sandbox/faults", fields)
        assert reply.status == 201, reply.raw
        return str(reply.json["id"])

    def clear_faults(self) -> None:
        self.send("DELETE", "/sandbox/faults")

    def place(self, user_id: str, direction: str = "OPEN", asset: str = "BTC", quantity: str = "0.05", **more: Any) -> dict[str, Any]:
        fields = {"user_id": user_id, "direction": direction, "asset": asset, "quantity": quantity, **more}
        reply = self.post("/counter/v1/orders", fields)
        assert reply.status == 201, reply.raw
        return dict(reply.json)

    def send(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, timeout: float = 10) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(self.base_url).netloc, timeout=timeout)
        try:
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.read(), {name.lower(): value for name, value in response.getheaders()})
        finally:
            connection.close()


def signed_headers(secret: str, method: str, target: str, body: bytes, *, at_ms: int | None = None) -> dict[str, str]:
    timestamp = str(time.time_ns() // 1_000_000 if at_ms is None else at_ms)
    signed = b"\n".join((method.encode(), target.encode(), timestamp.encode(), body))
    return {"X-Timestamp": timestamp, "X-Signature": hmac.digest(secret.encode(), signed, "sha256").hex()}


@dataclass
class ThreadSandbox(SandboxServer):
    """The same in a thread of the test's process, which starts in a twentieth of the time: for
    tests of what calls a counterparty. It publishes nothing, and `kill` is `stop`.
    """

    server: Server | None = None
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        listener = bind("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}"
        app = build_app(SandboxConfig(data=self.data, keys=self.keys, seed=7))
        config = uvicorn.Config(app, http=ResettableProtocol, loop="asyncio", ws="none", lifespan="on", log_config=None, access_log=False)
        self.server = Server(config, app)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]}, name="sandbox")
        self.thread.start()

    def _end(self, sig: signal.Signals) -> int:
        server, self.server = self.server, None
        if server is not None and self.thread is not None:
            server.should_exit = True
            self.thread.join(STOP_SECONDS_MAX)
            assert not self.thread.is_alive(), "the sandbox's thread doesn't end"
        return 0


@contextmanager
def sandbox_thread(data: Path) -> Iterator[SandboxServer]:
    """A sandbox in a thread, with its data in `data`, stopped at the end."""
    server = ThreadSandbox(data=data, keys=dict(settings.COUNTERPARTY_KEYS), kafka="")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def running_sandbox(
    data: Path, kafka: str | None = None, *, keys: Mapping[str, str] | None = None, topic: str | None = None, options: tuple[str, ...] = ()
) -> Iterator[SandboxServer]:
    """A sandbox process on a free port with its data in `data`, stopped at the end.

    `kafka` None publishes nothing; `keys` and `topic` default to the settings' own; `options` are
    further ones of the command.
    """
    environment = {} if topic is None else {"KAFKA_TOPIC": topic}
    server = SandboxServer(data=data, keys=dict(keys or settings.COUNTERPARTY_KEYS), kafka=kafka or "", options=options, environment=environment)
    server.start()
    try:
        yield server
    finally:
        server.stop()
