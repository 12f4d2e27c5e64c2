import time
from collections.abc import Iterator

import pytest
from django.conf import settings as configured
from django.db import connection
from pytest_django import Settings

from base.http import HttpAnswer, SignedClient
from clearing.models import Clearing
from ops import wiring
from orders.backfill.counter_api import HttpSyncOrderInterface, InterfaceFailed, Position
from orders.models import SyncOrder, Watermark
from tests.support.sandbox import SandboxServer, sandbox_thread


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxServer]:
    with sandbox_thread(tmp_path_factory.mktemp("counter")) as server:
        yield server


def interface(url: str, key: str | None = None) -> HttpSyncOrderInterface:
    client = SignedClient(url, configured.COUNTERPARTY_KEYS["counter"] if key is None else key)
    return HttpSyncOrderInterface(client, deadline_ms=2_000, now_ms=lambda: time.time_ns() // 1_000_000)


class Answering(SignedClient):
    """Answers every request with the same bytes."""

    def __init__(self, body: bytes, status: int = 200) -> None:
        super().__init__("http://127.0.0.1:1", "key")
        self._answer = HttpAnswer(status, "application/json", None, body)

    def request(self, *_args: object, **_options: object) -> HttpAnswer:
        return self._answer


class TestTheCountersInterface:
    def test_is_read_page_by_page(self, counter: SandboxServer) -> None:
        user_id = "9001"
        placed = [counter.place(user_id)["order_id"] for _ in range(5)]
        shard = counter.place(user_id)["shard"]
        asked = interface(counter.counter_url)

        found, position = [], Position(0, 0)
        while True:
            page = asked.page(shard, position.ms, position.id, 2)
            found += [row["order_id"] for row in page.rows]
            if page.following is None:
                break
            position = page.following

        assert shard in asked.shards().shards
        assert found[: len(placed)] == placed

    def test_refuses_a_wrong_key(self, counter: SandboxServer) -> None:
        with pytest.raises(InterfaceFailed, match="401"):
            interface(counter.counter_url, "another key").shards()

    def test_that_is_down_fails(self) -> None:
        with pytest.raises(InterfaceFailed, match="connection_refused"):
            interface("http://127.0.0.1:1").shards()

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b"[]", b"{}", b'{"shards":[0]}', b'{"shards":["x"],"now_ms":1}', b'{"shards":[-1],"now_ms":1}', b"[" * 100_000],
    )
    def test_that_answers_garbage_fails(self, body: bytes) -> None:
        asked = HttpSyncOrderInterface(Answering(body), deadline_ms=1_000, now_ms=lambda: 0)

        with pytest.raises(InterfaceFailed):
            asked.shards()

    @pytest.mark.parametrize(
        "body",
        [b'{"now_ms":1}', b'{"now_ms":1,"rows":[1]}', b'{"rows":[]}', b'{"now_ms":1,"rows":[],"next":{"ms":1}}', b'{"now_ms":1,"rows":[],"next":7}'],
    )
    def test_whose_page_is_no_page_fails(self, body: bytes) -> None:
        asked = HttpSyncOrderInterface(Answering(body), deadline_ms=1_000, now_ms=lambda: 0)

        with pytest.raises(InterfaceFailed):
            asked.page(0, 0, 0, 10)

    def test_one_odd_row_leaves_the_others_readable(self) -> None:
        body = b'{"now_ms":1,"next":null,"rows":[{"order_id":"\\ud800","quantity":NaN},{"order_id":"O2","quantity":1.50}]}'
        asked = HttpSyncOrderInterface(Answering(body), deadline_ms=1_000, now_ms=lambda: 0)

        page = asked.page(0, 0, 0, 10)

        assert [row["quantity"] for row in page.rows] == ["NaN", "1.50"]


@pytest.mark.django_db(transaction=True)
class TestGapPassAgainstTheSandbox:
    def test_brings_every_exchange_order_with_its_clearing(self, counter: SandboxServer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wiring, "_counter", lambda: SignedClient(counter.counter_url, settings.COUNTERPARTY_KEYS["counter"]))
        settings.GAP_PAGE_ROWS = 3
        placed = {counter.place(user_id, asset=asset)["order_id"] for user_id in ("1", "2", "3") for asset in ("BTC", "ETH")}
        counter.post("/counter/v1/misc-orders", {"user_id": "1", "kind": "DEPOSIT"})

        result = wiring.run_gap_pass()

        assert result is not None
        assert (result.failed, result.ingested.filtered) == ({}, 1)
        assert placed <= set(SyncOrder.objects.values_list("order_id", flat=True))
        assert Clearing.objects.count() == SyncOrder.objects.count() == result.ingested.accepted
        assert all(Watermark.objects.values_list("scanned_through_ms", flat=True))

    def test_is_left_out_while_another_runs(self) -> None:
        other = connection.copy()
        try:
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", [wiring.GAP_PASS_LOCK])

            assert wiring.run_gap_pass() is None
        finally:
            other.close()
