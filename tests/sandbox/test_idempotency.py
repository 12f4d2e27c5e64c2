"""Keys: one effect for one key, whatever is repeated, refused, interrupted or killed."""

import http.client
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from sandbox.app import Parts
from sandbox.config import KEY_RETENTION_MS, SandboxConfig
from sandbox.operations import Call
from sandbox.problems import Problem
from tests.sandbox.steps import Users, adjust, adjustment, exchange, order_of, transfer
from tests.support.sandbox import SandboxServer, running_sandbox
from tests.support.waiting import wait_until


def effects_of(server: SandboxServer, order_id: str) -> int:
    postings = server.open_page(f"/sandbox/ledger?order_id={order_id}")["postings"]
    return len({(posting["key"], posting["at_ms"]) for posting in postings if posting["key"]})


class TestRepeat:
    def test_the_same_bytes_get_the_same_answer_and_no_second_effect(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)

        first, second = adjust(sandbox_server, order), adjust(sandbox_server, order)

        assert (first.status, second.status) == (200, 200)
        assert first.raw == second.raw
        assert effects_of(sandbox_server, order["order_id"]) == 1

    def test_an_exchange_keeps_its_price(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)

        replies = {exchange(sandbox_server, order, "USDT", order["usdt"], "BTC").raw for _ in range(5)}

        assert len(replies) == 1

    def test_other_bytes_are_refused_and_change_nothing(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        first = transfer(sandbox_server, order, "2", "USDT", "10", "system", "fund")

        other = transfer(sandbox_server, order, "2", "USDT", "11", "system", "fund")

        assert (other.status, other.json["code"]) == (422, "key_reused")
        assert sandbox_server.status("fund", f"{order['order_id']}:2").json["result"] == first.json

    def test_another_counterparty_has_keys_of_its_own(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)

        transfer(sandbox_server, order, "1", "USDT", "10", "system", "fund")

        assert adjust(sandbox_server, order).status == 200


class TestRejection:
    def test_it_is_stored_and_given_again_byte_for_byte(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        sandbox_server.set_fault(kind="refuse", counterparty="counter", count=1, match=order["order_id"])

        refused, repeated = adjust(sandbox_server, order), adjust(sandbox_server, order)

        assert (refused.status, refused.json["code"]) == (400, "insufficient_funds")
        assert (repeated.status, repeated.raw) == (400, refused.raw)
        assert effects_of(sandbox_server, order["order_id"]) == 0

    def test_its_status_says_so(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = {**order_of(sandbox_server, user_id), "order_id": f"O-unknown-{user_id}"}
        refused = adjust(sandbox_server, order)

        status = sandbox_server.status("counter", f"{order['order_id']}:1").json

        assert status == {"key": f"{order['order_id']}:1", "state": "rejected", "status": 400, "problem": refused.json}


class TestUnreadable:
    @pytest.mark.parametrize(
        ("body", "key"),
        [
            (b"", "K"),
            (b"{", "K"),
            (b"[]", "K"),
            (b'{"key":1,"order_id":"O"}', "K"),
            (b'{"key":"K"}', "K"),
            (b'{"key":"K","order_id":"O"}', None),
            (b'{"key":"K","order_id":"O"}', "L"),
            (b'{"key":"\xff","order_id":"O"}', "K"),
            (b'{"key":"","order_id":"O"}', ""),
        ],
    )
    def test_it_is_refused_and_not_stored(self, sandbox_server: SandboxServer, body: bytes, key: str | None) -> None:
        reply = sandbox_server.call("fund", "POST", "/v1/transfers", body, key=key)

        assert (reply.status, reply.json["code"]) == (400, "invalid_request")
        assert sandbox_server.status("fund", "K").json["code"] == "unknown_key"

    def test_a_number_for_an_amount_is_a_final_rejection(self, sandbox_server: SandboxServer, user_id: str) -> None:
        fields = {**adjustment(order_of(sandbox_server, user_id)), "quantity": 0.05}

        reply = sandbox_server.mutate("counter", "/v1/adjustments", fields)

        assert (reply.status, reply.json["code"]) == (400, "invalid_request")
        assert sandbox_server.status("counter", fields["key"]).json["state"] == "rejected"


class TestInProgress:
    def test_a_deferred_call_is_in_progress_until_it_is_done(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        key = f"{order['order_id']}:1"
        sandbox_server.set_fault(kind="in_progress", counterparty="counter", count=1, latency_ms=300, match=order["order_id"])

        accepted, repeated, status = adjust(sandbox_server, order), adjust(sandbox_server, order), sandbox_server.status("counter", key)

        assert (accepted.status, accepted.json["state"]) == (202, "in_progress")
        assert (repeated.status, repeated.json["code"]) == (409, "in_progress")
        assert (status.status, status.json["state"]) == (200, "in_progress")
        wait_until(lambda: sandbox_server.status("counter", key).json["state"] == "done")
        assert adjust(sandbox_server, order).json == sandbox_server.status("counter", key).json["result"]
        assert effects_of(sandbox_server, order["order_id"]) == 1

    def test_a_slow_call_is_in_progress_for_everyone_else(self, sandbox_server: SandboxServer, user_id: str) -> None:
        order = order_of(sandbox_server, user_id)
        key = f"{order['order_id']}:1"
        sandbox_server.set_fault(kind="latency", counterparty="counter", operation="adjust", count=1, latency_ms=400, match=order["order_id"])
        slow = threading.Thread(target=adjust, args=(sandbox_server, order))

        slow.start()
        wait_until(lambda: sandbox_server.status("counter", key).status == 200)
        meanwhile = adjust(sandbox_server, order)
        slow.join()

        assert (meanwhile.status, meanwhile.json["code"]) == (409, "in_progress")
        assert sandbox_server.status("counter", key).json["state"] == "done"

    def test_a_key_that_nobody_used_is_unknown(self, sandbox_server: SandboxServer) -> None:
        reply = sandbox_server.status("trading", "O-nobody:3.1:r2")

        assert (reply.status, reply.json["code"]) == (404, "unknown_key")


class TestKilled:
    def test_key_and_effect_are_both_there_or_neither(self, tmp_path: Path) -> None:
        with running_sandbox(tmp_path) as server:
            orders = [order_of(server, Users.fresh()) for _ in range(300)]
            some_done = threading.Event()
            sending = threading.Thread(target=adjust_until_it_breaks, args=(server, orders, some_done))

            sending.start()
            assert some_done.wait(10)
            server.kill()
            sending.join()
            server.start()

            known = {order["order_id"] for order in orders if server.status("counter", f"{order['order_id']}:1").status == 200}
            assert 0 < len(known) < len(orders)
            assert known == {order["order_id"] for order in orders if effects_of(server, order["order_id"])}
            assert all(adjust(server, order).status == 200 for order in orders)
            assert all(effects_of(server, order["order_id"]) == 1 for order in orders)
            assert server.open_page("/sandbox/balance")["balanced"]

    def test_a_deferred_call_is_done_after_the_restart(self, tmp_path: Path) -> None:
        with running_sandbox(tmp_path) as server:
            order = order_of(server, Users.fresh())
            server.set_fault(kind="in_progress", counterparty="counter", count=1, latency_ms=400)
            assert adjust(server, order).status == 202

            server.kill()
            server.start()

            wait_until(lambda: server.status("counter", f"{order['order_id']}:1").json["state"] == "done")
            assert effects_of(server, order["order_id"]) == 1


def adjust_until_it_breaks(server: SandboxServer, orders: list[dict[str, str]], some_done: threading.Event) -> None:
    for number, order in enumerate(orders):
        try:
            adjust(server, order)
        except (OSError, http.client.HTTPException):  # refused, reset, or ended in the middle of an answer
            return
        if number == 20:
            some_done.set()


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1_795_356_880_000

    def __call__(self) -> int:
        return self.now_ms


class TestRetention:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def parts(self, tmp_path: Path, clock: Clock) -> Iterator[Parts]:
        keys = {"counter": "c", "fund": "f", "trading": "t"}
        parts = Parts(SandboxConfig(data=tmp_path, keys=keys, clock_ms=clock))
        yield parts
        parts.stop()

    def test_a_key_is_kept_for_seven_days_and_forgotten_after_them(self, parts: Parts, clock: Clock) -> None:
        fields = {"key": "O1:2", "order_id": "O1", "asset": "USDT", "amount": "5", "source": "system", "destination": "fund"}
        call = Call("fund", "O1:2", "O1", json.dumps(fields).encode())
        parts.operations.run(call)
        clock.now_ms += KEY_RETENTION_MS

        parts.purge()
        assert parts.operations.status("fund", "O1:2").status == 200

        clock.now_ms += 1
        parts.purge()
        with pytest.raises(Problem, match="unknown_key"):
            parts.operations.status("fund", "O1:2")

    def test_what_was_applied_stays_in_the_ledger(self, parts: Parts) -> None:
        before = parts.storage.balance("fund", "USDT") or Decimal(0)
        fields = {"key": "O1:2", "order_id": "O1", "asset": "USDT", "amount": "5", "source": "system", "destination": "fund"}

        parts.operations.run(Call("fund", "O1:2", "O1", json.dumps(fields).encode()))

        assert parts.storage.balance("fund", "USDT") == before + 5
