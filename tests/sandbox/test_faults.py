"""Faults on demand: what the caller sees, and whether the effect is there."""

import http.client
import time
from decimal import Decimal

import pytest

from tests.sandbox.steps import adjust, exchange, order_of, transfer
from tests.support.sandbox import SandboxServer
from tests.support.waiting import wait_until


def is_applied(server: SandboxServer, order_id: str, step: str = "1", counterparty: str = "counter") -> bool:
    return server.status(counterparty, f"{order_id}:{step}").status == 200


class TestBeforeTheEffect:
    @pytest.mark.parametrize(("status", "code"), [(500, "internal_error"), (503, "unavailable"), (401, "signature_invalid"), (403, "forbidden")])
    def test_a_status_is_answered_and_nothing_stored(self, sandbox_server: SandboxServer, user_id: str, status: int, code: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="status", status=status, operation="adjust", count=1, match=order["order_id"])

        reply = adjust(sandbox_server, order)

        assert (reply.status, reply.json["code"]) == (status, code)
        assert not is_applied(sandbox_server, order["order_id"])
        assert adjust(sandbox_server, order).status == 200

    def test_too_many_requests_says_when_to_come_back(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="status", status=429, latency_ms=2500, count=1, match=order["order_id"])

        reply = adjust(sandbox_server, order)

        assert (reply.status, reply.headers["retry-after"]) == (429, "3")

    def test_stale_is_a_stale_signature(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="stale", count=1, match=order["order_id"])

        reply = adjust(sandbox_server, order)

        assert (reply.status, reply.json["code"]) == (401, "signature_stale")
        assert not is_applied(sandbox_server, order["order_id"])

    def test_reset_breaks_the_connection(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="reset", operation="adjust", count=1, match=order["order_id"])

        with pytest.raises(ConnectionResetError):
            adjust(sandbox_server, order)

        assert not is_applied(sandbox_server, order["order_id"])

    def test_latency_only_delays(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="latency", latency_ms=200, count=1, match=order["order_id"])
        began = time.monotonic()

        reply = adjust(sandbox_server, order)

        assert reply.status == 200
        assert time.monotonic() - began >= 0.2


class TestAfterTheEffect:
    def test_apply_then_timeout_never_answers(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="apply_then_timeout", operation="adjust", count=1, match=order["order_id"])

        with pytest.raises(TimeoutError):
            adjust(sandbox_server, order, timeout=0.3)

        wait_until(lambda: is_applied(sandbox_server, order["order_id"]))

    def test_after_apply_then_timeout_the_key_answers_again(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="apply_then_timeout", operation="adjust", count=1, match=order["order_id"])
        with pytest.raises(TimeoutError):
            adjust(sandbox_server, order, timeout=0.1)

        reply = adjust(sandbox_server, order)

        assert reply.status == 200

    def test_apply_then_timeout_breaks_off_at_last(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="apply_then_timeout", operation="adjust", latency_ms=100, count=1, match=order["order_id"])

        with pytest.raises(ConnectionError):
            adjust(sandbox_server, order)

    def test_apply_then_reset_breaks_the_connection(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="apply_then_reset", operation="adjust", count=1, match=order["order_id"])

        with pytest.raises(ConnectionResetError):
            adjust(sandbox_server, order)

        assert is_applied(sandbox_server, order["order_id"])

    def test_apply_then_5xx_lies(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="apply_then_5xx", status=502, operation="adjust", count=1, match=order["order_id"])

        reply = adjust(sandbox_server, order)

        assert (reply.status, reply.json["code"]) == (502, "bad_gateway")
        assert is_applied(sandbox_server, order["order_id"])

    def test_garbage_is_no_json(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="garbage", operation="adjust", count=1, match=order["order_id"])

        reply = adjust(sandbox_server, order)

        assert (reply.status, reply.raw[:6]) == (200, b"<html>")
        assert is_applied(sandbox_server, order["order_id"])

    def test_drip_outlasts_a_deadline_that_each_read_meets(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="drip", operation="adjust", latency_ms=20, count=1, match=order["order_id"])
        began = time.monotonic()

        reply = adjust(sandbox_server, order, timeout=1.5)

        assert reply.json["state"] == "done"
        assert time.monotonic() - began > 1.5

    def test_a_client_that_hangs_up_on_a_drip_hurts_nobody(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="drip", operation="adjust", latency_ms=400, count=1, match=order["order_id"])

        with pytest.raises((TimeoutError, http.client.HTTPException)):
            adjust(sandbox_server, order, timeout=0.1)

        wait_until(lambda: is_applied(sandbox_server, order["order_id"]))


class TestPartialExecution:
    def test_a_fraction_is_executed_and_the_rest_can_follow(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="partial", fraction="0.3", count=1, match=order["order_id"])

        part = exchange(sandbox_server, order, "USDT", "1000.000007", "BTC").json
        rest = Decimal("1000.000007") - Decimal(part["sold"])
        remainder = exchange(sandbox_server, order, "USDT", str(rest), "BTC", step="3.2").json

        assert (part["sold"], part["min_lot"]) == ("300.000000", "0.01")
        assert Decimal(remainder["sold"]) == rest

    def test_it_concerns_exchanges_alone(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="partial", match=order["order_id"])

        reply = transfer(sandbox_server, order, "2", "USDT", "10", "system", "fund")

        assert Decimal(reply.json["amount"]) == 10


class TestQuestions:
    @pytest.mark.parametrize(("kind", "status"), [("status", 500), ("stale", 401), ("garbage", 200)])
    def test_they_fail_too(self, sandbox_server: SandboxServer, user_id: str, kind: str, status: int) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind=kind, operation="status", count=1, match=order["order_id"])

        first, second = (sandbox_server.status("counter", f"{order['order_id']}:1") for _ in range(2))

        assert first.status == status
        assert (second.status, second.json["code"]) == (404, "unknown_key")

    def test_the_sync_orders_do_not_come(self, sandbox_server: SandboxServer) -> None:
        sandbox_server.set_fault(kind="status", status=503, operation="sync_orders", count=1)

        statuses = [sandbox_server.call("counter", "GET", "/v1/sync-orders?shard=0").status for _ in range(2)]

        assert statuses == [503, 200]


class TestBoard:
    def test_a_fault_is_listed_until_its_count_is_used_up(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        fault_id = sandbox_server.set_fault(kind="status", count=2, match=order["order_id"])

        adjust(sandbox_server, order)
        (listed,) = sandbox_server.open_page("/sandbox/faults")["faults"]
        adjust(sandbox_server, order)

        assert (listed["id"], listed["hits"], listed["left"]) == (fault_id, 1, 1)
        assert sandbox_server.open_page("/sandbox/faults") == {"faults": []}

    def test_others_are_left_alone(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="status", counterparty="fund")
        sandbox_server.set_fault(kind="status", operation="exchange")
        sandbox_server.set_fault(kind="status", match="X")

        assert adjust(sandbox_server, order).status == 200

    def test_one_can_be_deleted(self, sandbox_server: SandboxServer) -> None:
        fault_id = sandbox_server.set_fault(kind="reset", counterparty="trading")

        statuses = [sandbox_server.send("DELETE", f"/sandbox/faults/{fault_id}").status for _ in range(2)]

        assert statuses == [200, 404]

    @pytest.mark.parametrize(
        "fields",
        [
            {"kind": "explode"},
            {"kind": "refuse", "status": 500},
            {"kind": "partial", "fraction": "1.5"},
            {"kind": "partial", "fraction": "NaN"},
            {"kind": "absurd_price", "factor": "0"},
            {"kind": "absurd_price", "factor": "1e9"},
            {"kind": "status", "probability": 0},
            {"kind": "status", "count": 0},
            {"kind": "status", "status": 299},
            {"kind": "latency", "latency_ms": -1},
            {"kind": "latency", "latency": 5},
        ],
    )
    def test_nonsense_is_refused(self, sandbox_server: SandboxServer, fields: dict[str, object]) -> None:
        reply = sandbox_server.post("/sandbox/faults", fields)

        assert (reply.status, reply.json["code"]) == (400, "invalid_request")

    def test_a_probability_hits_some(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="status", probability=0.5, match=order["order_id"])

        statuses = {adjust(sandbox_server, order).status for _ in range(40)}

        assert statuses == {200, 500}
