"""The sandbox against the contracts in docs/contracts/: generated requests, then every kind of
answer that the contracts name.
"""

import json
import time
from typing import Any

import pytest
import requests
import schemathesis
from django.conf import settings
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from schemathesis import Case, checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.sandbox.steps import Users, adjustment, order_of
from tests.support.sandbox import SandboxServer, signed_headers

FOLDER = settings.BASE_DIR / "docs" / "contracts"
SCHEMAS = {name: schemathesis.openapi.from_path(FOLDER / f"{name}.yaml") for name in ("counter", "fund", "trading")}
COUNTER, FUND, TRADING = SCHEMAS.values()
CHECKS = [
    checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
bounded = hypothesis_settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


class Signed(requests.auth.AuthBase):
    """Signs what is really sent."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __call__(self, r: requests.PreparedRequest) -> requests.PreparedRequest:
        body = r.body or b""
        assert isinstance(body, (str, bytes))
        raw = body.encode() if isinstance(body, str) else body
        r.headers.update(signed_headers(self._secret, r.method or "", r.path_url, raw))
        return r


def hold(case: Case[Any], server: SandboxServer, counterparty: str) -> None:
    """Sends the generated request, signed and under its body's key, and holds the answer against
    the contract.
    """
    key = case.body.get("key") if isinstance(case.body, dict) else None
    if isinstance(key, str) and key.isascii() and key.isprintable():
        case.headers["Idempotency-Key"] = key.strip()
    response = case.call(base_url=f"{server.base_url}/{counterparty}", auth=Signed(server.keys[counterparty]))
    case.validate_response(response, checks=CHECKS)


@COUNTER.parametrize()
@bounded
def test_the_counter_keeps_its_contract(case: Case[Any], sandbox_server: SandboxServer) -> None:
    hold(case, sandbox_server, "counter")


@FUND.parametrize()
@bounded
def test_the_fund_keeps_its_contract(case: Case[Any], sandbox_server: SandboxServer) -> None:
    hold(case, sandbox_server, "fund")


@TRADING.parametrize()
@bounded
def test_the_trading_service_keeps_its_contract(case: Case[Any], sandbox_server: SandboxServer) -> None:
    hold(case, sandbox_server, "trading")


PATHS = {"counter": "/v1/adjustments", "fund": "/v1/transfers", "trading": "/v1/exchanges"}


def body_for(server: SandboxServer, counterparty: str) -> dict[str, Any]:
    """A call that can be done, of an order of its own."""
    order = order_of(server, Users.fresh())
    names = {"key": f"{order['order_id']}:1", "order_id": order["order_id"]}
    return {
        "counter": adjustment(order),
        "fund": {**names, "asset": "USDT", "amount": "10", "source": "system", "destination": "fund"},
        "trading": {**names, "sell_asset": "USDT", "sell_amount": order["usdt"], "buy_asset": order["asset"]},
    }[counterparty]


def answer_to(server: SandboxServer, counterparty: str, fields: dict[str, Any], *, secret: str | None = None) -> requests.Response:
    """The answer to a signed call, held against the contract."""
    return ask(server, counterparty, "POST", PATHS[counterparty], json.dumps(fields).encode(), {"Idempotency-Key": fields["key"]}, secret=secret)


def status_of(server: SandboxServer, counterparty: str, key: str) -> requests.Response:
    return ask(server, counterparty, "GET", f"/v1/operations/{key}", template="/v1/operations/{key}")


def ask(
    server: SandboxServer,
    counterparty: str,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    template: str | None = None,
    secret: str | None = None,
) -> requests.Response:
    signed = Signed(secret or server.keys[counterparty])
    response = requests.request(method, f"{server.base_url}/{counterparty}{path}", data=body, headers=headers, auth=signed, timeout=10)
    SCHEMAS[counterparty][template or path.partition("?")[0]][method].validate_response(response)
    return response


@pytest.mark.parametrize("counterparty", ["counter", "fund", "trading"])
class TestEveryAnswerIsInTheContract:
    """The kinds of answer that generated requests hardly reach."""

    def test_done_and_its_status(self, sandbox_server: SandboxServer, counterparty: str) -> None:
        fields = body_for(sandbox_server, counterparty)

        done, status = answer_to(sandbox_server, counterparty, fields), status_of(sandbox_server, counterparty, fields["key"])

        assert (done.status_code, status.json()["result"]) == (200, done.json())

    def test_in_progress_and_its_status(self, sandbox_server: SandboxServer, counterparty: str) -> None:
        fields = body_for(sandbox_server, counterparty)
        sandbox_server.set_fault(kind="in_progress", latency_ms=5_000, count=1, match=fields["order_id"])

        accepted, repeated = (answer_to(sandbox_server, counterparty, fields) for _ in range(2))
        status = status_of(sandbox_server, counterparty, fields["key"])

        assert (accepted.status_code, repeated.status_code, status.json()["state"]) == (202, 409, "in_progress")

    @pytest.mark.parametrize(("status", "code"), [(400, "insufficient_funds"), (404, "account_unknown"), (410, "contract_closed")])
    def test_a_rejection_and_its_status(self, sandbox_server: SandboxServer, counterparty: str, status: int, code: str) -> None:
        fields = body_for(sandbox_server, counterparty)
        sandbox_server.set_fault(kind="refuse", status=status, code=code, count=1, match=fields["order_id"])

        rejected, known = answer_to(sandbox_server, counterparty, fields), status_of(sandbox_server, counterparty, fields["key"])

        assert (rejected.status_code, known.json()["state"], known.json()["problem"]) == (status, "rejected", rejected.json())

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    def test_not_now(self, sandbox_server: SandboxServer, counterparty: str, status: int) -> None:
        fields = body_for(sandbox_server, counterparty)
        sandbox_server.set_fault(kind="status", status=status, count=1, match=fields["order_id"])

        assert answer_to(sandbox_server, counterparty, fields).status_code == status

    def test_a_key_used_for_other_bytes(self, sandbox_server: SandboxServer, counterparty: str) -> None:
        fields = body_for(sandbox_server, counterparty)
        answer_to(sandbox_server, counterparty, fields)

        assert answer_to(sandbox_server, counterparty, {**fields, "asset": "ETH"}).status_code == 422

    def test_a_wrong_signature_and_one_of_somebody_else(self, sandbox_server: SandboxServer, counterparty: str) -> None:
        fields = body_for(sandbox_server, counterparty)
        foreign = next(secret for name, secret in sandbox_server.keys.items() if name != counterparty)

        statuses = [answer_to(sandbox_server, counterparty, fields, secret=secret).status_code for secret in ("wrong", foreign)]

        assert statuses == [401, 403]


class TestQuestions:
    def test_a_page_of_sync_orders_with_all_kinds(self, sandbox_server: SandboxServer) -> None:
        order = order_of(sandbox_server, Users.fresh())
        sandbox_server.post("/counter/v1/misc-orders", {"user_id": Users.fresh(), "kind": "FEE"})

        pages = [ask(sandbox_server, "counter", "GET", f"/v1/sync-orders?shard={shard}&limit=1000").json() for shard in range(4)]

        assert order["order_id"] in {row["order_id"] for page in pages for row in page["rows"]}
        assert {row["kind"] for page in pages for row in page["rows"]} == {"EXCHANGE", "FEE"}

    def test_a_page_that_is_not_the_last(self, sandbox_server: SandboxServer) -> None:
        order = order_of(sandbox_server, Users.fresh())

        page = ask(sandbox_server, "counter", "GET", f"/v1/sync-orders?shard={order['shard']}&limit=1").json()

        assert page["next"] == {"ms": page["rows"][0]["created_ms"], "id": page["rows"][0]["id"]}

    @pytest.mark.parametrize("coin", ["BTC", "ETH"])
    def test_a_price(self, sandbox_server: SandboxServer, coin: str) -> None:
        price = ask(sandbox_server, "fund", "GET", f"/v1/prices?asset={coin}").json()

        assert abs(price["at_ms"] - time.time() * 1000) < 5_000
