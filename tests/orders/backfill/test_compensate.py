"""`manage.py compensate` against a real sandbox."""

import json
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django import Settings

from base.http import SignedClient
from clearing.dispatch import broker
from clearing.models import Clearing
from ops import wiring
from ops.management.commands import compensate
from orders.models import SyncOrder, Watermark
from tests.support.sandbox import SandboxServer, sandbox_thread

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def counter(tmp_path_factory: pytest.TempPathFactory, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxServer]:
    with sandbox_thread(tmp_path_factory.mktemp("counter")) as server:
        monkeypatch.setattr(wiring, "_counter", lambda: SignedClient(server.counter_url, settings.COUNTERPARTY_KEYS["counter"]))
        broker.client().flushdb()
        yield server
        broker.client().flushdb()


def run(*arguments: str, code: int = 0) -> dict[str, Any]:
    out = StringIO()
    ended = 0
    try:
        call_command("compensate", *arguments, "--json", stdout=out, stderr=sys.stderr)
    except SystemExit as stop:
        ended = int(stop.code or 0)
    assert ended == code, out.getvalue()
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


class TestCompensate:
    def test_brings_what_is_missing_and_counts_it(self, counter: SandboxServer) -> None:
        placed = [counter.place(user_id)["order_id"] for user_id in ("1", "2", "3")]

        report = run()

        assert (report["rows"], report["accepted"], report["failed"]) == (3, 3, {})
        assert set(SyncOrder.objects.values_list("order_id", flat=True)) == set(placed)
        assert sum(shard["found_by_gap"] for shard in report["shards"]) == Clearing.objects.count() == 3

    def test_of_one_shard_leaves_the_others(self, counter: SandboxServer) -> None:
        shard = counter.place("1")["shard"]

        run("--shard", str(shard))

        assert list(Watermark.objects.values_list("shard", flat=True)) == [shard]

    def test_since_a_time_reads_again(self, counter: SandboxServer, settings: Settings) -> None:
        settings.GAP_OVERLAP_MS = -1_000  # the order lies behind the position at once
        counter.place("1")
        run()
        before = dict(Watermark.objects.values_list("shard", "scanned_through_ms"))

        later, again = run(), run("--since", "2026-01-01")

        assert (later["rows"], again["rows"], again["known"]) == (0, 1, 1)
        assert all(through_ms >= before[shard] for shard, through_ms in Watermark.objects.values_list("shard", "scanned_through_ms"))

    def test_a_shard_that_is_none_is_reported(self, counter: SandboxServer) -> None:
        assert "400" in run("--shard", "77", code=1)["failed"]["77"]

    def test_a_counter_that_is_down_is_reported(self, counter: SandboxServer) -> None:
        counter.kill()

        assert "connection_refused" in run(code=1)["failed"]["list"]

    def test_says_when_another_pass_does_not_end(self, counter: SandboxServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compensate, "WAIT_SECONDS_MAX", 0.3)
        other = connection.copy()
        try:
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", [wiring.GAP_PASS_LOCK])

            with pytest.raises(CommandError, match="still in progress"):
                call_command("compensate")
        finally:
            other.close()
