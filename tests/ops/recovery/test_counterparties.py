"""Half real: one counterparty is a sandbox, the others aren't. The sandbox refuses a production's
calls, and no worker starts.
"""

import sys
from collections.abc import Iterator

import pytest

from acceptance_site.configuration import EXIT_CONFIGURATION
from tests.support.sandbox import SandboxServer, running_sandbox, signed_headers
from tests.support.settings import COMPLETE, started_with

PRODUCTION = "acceptance-service/9.9.9 (production)"
HERE = {"DATABASE_URL": "postgresql://a@127.0.0.1:1/a", "BROKER_URL": "redis://127.0.0.1:1/0", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
WORKER = (sys.executable, "-m", "celery", "-A", "acceptance_site", "worker", "-P", "threads", "-c", "1", "-Q", "ops")
NOBODY = "http://127.0.0.1:1/api"
ASKED = "import django; django.setup(); from ops.recovery.counterparties import refuse_sandbox; refuse_sandbox(); print('goes on')"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxServer]:
    with running_sandbox(tmp_path_factory.mktemp("toy")) as server:
        yield server


def beside(toy: SandboxServer, **urls: str) -> dict[str, str]:
    keys = {"COUNTER_KEY": "x" * 32, "TRADING_KEY": "y" * 32, "FUND_KEY": "z" * 32}
    return {
        **COMPLETE,
        **HERE,
        **keys,
        "DJANGO_SETTINGS_MODULE": "acceptance_site.settings",
        "COUNTER_URL": NOBODY,
        "TRADING_URL": NOBODY,
        "FUND_URL": toy.fund_url,
        **urls,
    }


class TestSandbox:
    @pytest.mark.parametrize(("method", "path"), [("GET", "/fund/v1/operations/O1%3A2"), ("POST", "/fund/v1/transfers")])
    def test_refuses_a_call_of_a_production_whatever_its_signature(self, toy: SandboxServer, method: str, path: str) -> None:
        headers = signed_headers(toy.keys["fund"], method, path, b"{}" if method == "POST" else b"")

        reply = toy.send(method, path, b"{}" if method == "POST" else b"", {**headers, "User-Agent": PRODUCTION})

        assert (reply.status, reply.json["code"]) == (403, "production_refused")

    def test_takes_the_calls_of_a_development(self, toy: SandboxServer) -> None:
        headers = signed_headers(toy.keys["fund"], "GET", "/fund/v1/operations/O1", b"")

        reply = toy.send("GET", "/fund/v1/operations/O1", headers={**headers, "User-Agent": PRODUCTION.replace("production", "development")})

        assert (reply.status, reply.json["code"]) == (404, "unknown_key")


class TestWorker:
    def test_does_not_start_in_production_beside_a_sandbox(self, toy: SandboxServer) -> None:
        ended = started_with(beside(toy), *WORKER)

        assert ended.returncode == EXIT_CONFIGURATION, ended.stderr[-2_000:]
        assert "FUND_URL of a production: a sandbox answers there" in ended.stderr

    def test_starts_while_counterparties_are_away(self, toy: SandboxServer) -> None:
        ended = started_with(beside(toy, FUND_URL=NOBODY), sys.executable, "-c", ASKED)

        assert (ended.returncode, ended.stdout) == (0, "goes on\n"), ended.stderr[-2_000:]

    def test_starts_in_development(self, toy: SandboxServer) -> None:
        ended = started_with({**beside(toy), "ENVIRONMENT": "development"}, sys.executable, "-c", ASKED)

        assert (ended.returncode, ended.stdout) == (0, "goes on\n"), ended.stderr[-2_000:]
