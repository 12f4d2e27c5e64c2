import time

import pytest

from tests.sandbox.steps import adjustment, order_of
from tests.support.sandbox import SandboxServer, signed_headers

TRANSFER = b'{"key":"K","order_id":"O","asset":"USDT","amount":"1","source":"system","destination":"fund"}'


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class TestSignature:
    def test_an_unsigned_request_is_refused(self, sandbox_server: SandboxServer) -> None:
        reply = sandbox_server.send("POST", "/fund/v1/transfers", TRANSFER, {"Idempotency-Key": "K"})

        assert (reply.status, reply.json["code"]) == (401, "signature_invalid")

    def test_questions_are_signed_too(self, sandbox_server: SandboxServer) -> None:
        replies = [
            sandbox_server.send("GET", path).status for path in ("/counter/v1/shards", "/fund/v1/prices?asset=BTC", "/trading/v1/operations/K")
        ]

        assert replies == [401, 401, 401]

    @pytest.mark.parametrize("age_ms", [31_000, -31_000])
    def test_a_stale_one_is_refused_and_applies_nothing(self, sandbox_server: SandboxServer, user_id: str, age_ms: int) -> None:
        fields = adjustment(order_of(sandbox_server, user_id))
        body = str(fields).replace("'", '"').encode()

        reply = sandbox_server.call("counter", "POST", "/v1/adjustments", body, key=fields["key"], at_ms=now_ms() - age_ms)

        assert (reply.status, reply.json["code"]) == (401, "signature_stale")
        assert sandbox_server.status("counter", fields["key"]).status == 404

    def test_it_covers_the_query(self, sandbox_server: SandboxServer) -> None:
        headers = signed_headers(sandbox_server.keys["fund"], "GET", "/fund/v1/prices?asset=BTC", b"")

        reply = sandbox_server.send("GET", "/fund/v1/prices?asset=ETH", headers=headers)

        assert (reply.status, reply.json["code"]) == (401, "signature_invalid")

    def test_it_covers_the_percent_encoded_path(self, sandbox_server: SandboxServer) -> None:
        reply = sandbox_server.call("fund", "GET", "/v1/operations/O1%3A2%2F")

        assert (reply.status, reply.json["code"]) == (404, "unknown_key")

    def test_another_counterpartys_secret_is_known_but_not_allowed(self, sandbox_server: SandboxServer) -> None:
        headers = signed_headers(sandbox_server.keys["counter"], "GET", "/fund/v1/prices?asset=BTC", b"")

        reply = sandbox_server.send("GET", "/fund/v1/prices?asset=BTC", headers=headers)

        assert (reply.status, reply.json["code"]) == (403, "forbidden")

    @pytest.mark.parametrize("timestamp", ["", "soon", "9" * 30, "-1"])
    def test_a_timestamp_that_is_none_is_refused(self, sandbox_server: SandboxServer, timestamp: str) -> None:
        headers = signed_headers(sandbox_server.keys["counter"], "GET", "/counter/v1/shards", b"")

        reply = sandbox_server.send("GET", "/counter/v1/shards", headers={**headers, "X-Timestamp": timestamp})

        assert reply.status == 401
