"""The process itself: it stops at once, leaves nobody behind, and takes up where it was."""

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from django.conf import settings

from tests.sandbox.steps import Users, adjust, clear, order_of
from tests.support.beside import beside
from tests.support.sandbox import SandboxServer, running_sandbox
from tests.support.waiting import wait_until


class TestStopping:
    def test_sigterm_ends_it_at_once_also_with_connections_held(self, tmp_path: Path) -> None:
        with running_sandbox(tmp_path) as server:
            order = order_of(server, Users.fresh())
            server.set_fault(kind="apply_then_timeout", operation="adjust")
            held, found = beside(lambda: adjust(server, order, timeout=120))  # the sandbox would hold it for 30 s
            wait_until(lambda: server.status("counter", f"{order['order_id']}:1").status == 200)

            code = server.stop()
            held.join(60)

            assert code == 0
            assert isinstance(found[0], ConnectionError), "it wasn't cut off, but waited for"

    def test_it_has_no_children(self, sandbox_server: SandboxServer) -> None:
        assert sandbox_server.process is not None

        assert psutil.Process(sandbox_server.process.pid).children(recursive=True) == []


class TestStarting:
    def test_a_restart_keeps_orders_keys_and_ledger(self, tmp_path: Path) -> None:
        with running_sandbox(tmp_path) as server:
            order = order_of(server, Users.fresh())
            clear(server, order)
            before = server.open_page(f"/sandbox/ledger?order_id={order['order_id']}")

            server.kill()
            server.start()

            assert server.open_page(f"/sandbox/ledger?order_id={order['order_id']}") == before
            assert adjust(server, order).status == 200
            later = order_of(server, order["user_id"])
            assert (later["created_ms"], int(later["sequence"])) > (order["created_ms"], int(order["sequence"]))

    def test_a_taken_port_is_said_plainly(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            command = [sys.executable, "manage.py", "sandbox", "--port", str(port), "--data", str(tmp_path), "--kafka", ""]

            done = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=30, check=False)

        assert done.returncode == 1
        assert f"127.0.0.1:{port} is taken" in done.stderr


class TestUnknownPaths:
    @pytest.mark.parametrize(
        ("method", "path", "status"), [("GET", "/nothing", 404), ("GET", "/fund/v1/transfers", 405), ("PUT", "/sandbox/faults", 405)]
    )
    def test_they_are_problems_too(self, sandbox_server: SandboxServer, method: str, path: str, status: int) -> None:
        reply = sandbox_server.send(method, path)

        assert (reply.status, reply.json["status"], reply.headers["content-type"]) == (status, status, "application/problem+json")
