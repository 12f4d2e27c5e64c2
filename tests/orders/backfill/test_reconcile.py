"""Reconcile against a real sandbox: what the stream, the gap pass, or the counter's own sync-order
table never brought.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings
from structlog.testing import capture_logs

from base.http import SignedClient
from clearing.dispatch import broker
from clearing.models import Clearing
from ops import tasks, wiring
from ops.monitoring import scrape
from orders.backfill.counter_api import Counts, Page, Position, Shards, Table
from orders.backfill.reconcile import MINUTE_MS, Reconcile
from orders.intake import faults
from orders.intake.ingest import AcceptedOrder
from orders.models import Quarantined, ReconcileRun, SyncOrder, Watermark
from tests.admin.conftest import person
from tests.orders.fakes import FakeClearings
from tests.orders.messages import CREATED_MS, RULES, inserts, interface_row
from tests.support.sandbox import SandboxServer, sandbox_thread
from tests.support.states import rewritable

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def counter(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxServer]:
    """A counter without orders; we compare up to the very last second."""
    with sandbox_thread(tmp_path / "counter") as server:
        monkeypatch.setattr(wiring, "_counter", lambda: SignedClient(server.counter_url, settings.COUNTERPARTY_KEYS["counter"]))
        settings.RECONCILE_SETTLE_MS = -1_000
        yield server
    broker.client().flushdb()


def run(*arguments: str, code: int = 0) -> dict[str, int]:
    """Runs the command; its counts, summed over the shards."""
    out = StringIO()
    ended = 0
    try:
        call_command("reconcile", *arguments, "--json", stdout=out, stderr=sys.stderr)
    except SystemExit as stop:
        ended = int(stop.code or 0)
    assert ended == code, out.getvalue()
    shards: list[dict[str, Any]] = json.loads(out.getvalue())["shards"]
    return {name: found for name in ("missing", "fetched", "no_sync_row", "unknown") if (found := sum(shard[name] for shard in shards))}


def held() -> set[str]:
    return set(SyncOrder.objects.values_list("order_id", flat=True))


class TestReconcile:
    def test_finds_nothing_where_all_agree(self, counter: SandboxServer) -> None:
        counter.place("1")
        counter.post("/counter/v1/misc-orders", {"user_id": "1", "kind": "DEPOSIT"})
        wiring.run_gap_pass()

        assert run() == {}
        totals = [(found.ours, found.sync_table, found.order_table) for found in ReconcileRun.objects.all()]
        assert all(ours == sync_table == order_table for ours, sync_table, order_table in totals)
        assert len(totals) == 4

    def test_fetches_what_neither_stream_nor_gap_pass_brought(self, counter: SandboxServer) -> None:
        placed = {counter.place(user_id)["order_id"] for user_id in ("1", "2", "3")}

        assert run() == {"missing": 3, "fetched": 3}
        assert placed <= held()
        assert Clearing.objects.filter(order__order_id__in=placed).count() == 3
        assert run() == {}

    def test_fetches_from_the_order_table_what_has_no_sync_order(self, counter: SandboxServer) -> None:
        counter.set_fault(kind="no_sync_row", counterparty="counter", operation="place", count=1)
        lost, other = counter.place("7"), counter.place("7")
        wiring.run_gap_pass()
        assert lost["order_id"] not in held()

        first, second = run(), run()

        assert (first, second) == ({"missing": 1, "fetched": 1, "no_sync_row": 1}, {"no_sync_row": 1})
        order = SyncOrder.objects.get(order_id=lost["order_id"])
        assert (order.source, order.topic) == ("gap", f"order_table:{lost['shard']}")
        assert Clearing.objects.filter(order=order).exists()
        assert other["order_id"] in held()

    def test_tells_of_what_the_counter_does_not_know(self, counter: SandboxServer) -> None:
        FakeClearings().ingest(inserts(["GHOST"]))
        with rewritable():
            SyncOrder.objects.filter(order_id="GHOST").update(created_ms=counter.place("1")["created_ms"], shard=0)

        found = run(code=1)

        assert found["unknown"] == 1
        assert ReconcileRun.objects.get(unknown=1).order_ids["unknown"] == ["GHOST"]

    def test_leaves_what_is_too_young_to_the_others(self, counter: SandboxServer, settings: Settings) -> None:
        settings.RECONCILE_SETTLE_MS = 60_000
        counter.place("1")

        assert run() == {}

    def test_goes_back_no_further_than_intake_does(self, counter: SandboxServer, settings: Settings) -> None:
        old = counter.place("1")["order_id"]
        settings.INTAKE_SINCE = datetime.now(UTC) + timedelta(milliseconds=1)

        assert (run(), old in held()) == ({}, False)

    def test_of_a_row_that_is_refused_says_that_it_is_still_missing(self, counter: SandboxServer, settings: Settings) -> None:
        order = counter.place("1", asset="ETH")
        settings.ASSET_SCALES = {"USDT": 6, "BTC": 8}

        assert run(code=1) == {"missing": 1}
        assert Quarantined.objects.get(order_id=order["order_id"]).reason == "refused:unknown_asset"

    def test_moves_no_position_of_the_gap_pass(self, counter: SandboxServer) -> None:
        before = set(Watermark.objects.values_list("shard", "scanned_through_ms"))
        counter.place("1")

        run()

        assert set(Watermark.objects.exclude(scanned_through_ms=0).values_list("shard", "scanned_through_ms")) <= before

    def test_drops_the_oldest_runs(self, counter: SandboxServer) -> None:
        run()
        with connection.cursor() as cursor:
            cursor.execute("UPDATE orders_reconcilerun SET at = at - interval '31 days'")

        run()

        assert ReconcileRun.objects.count() == 4


class TestFailures:
    def test_of_one_table_leave_a_row_that_says_so(self, counter: SandboxServer) -> None:
        counter.set_fault(kind="status", status=503, counterparty="counter", operation="orders", count=1)

        run(code=1)

        assert ReconcileRun.objects.exclude(error="").count() == 1
        assert "503" in ReconcileRun.objects.exclude(error="").get().error

    def test_of_the_whole_counter_end_the_command_and_not_the_job(self, counter: SandboxServer) -> None:
        counter.set_fault(kind="status", status=503, counterparty="counter", operation="sync_orders", count=2)

        with pytest.raises(CommandError, match="503"):
            call_command("reconcile")
        tasks.reconcile()

        assert not ReconcileRun.objects.exists()

    def test_of_the_arguments_are_explained(self) -> None:
        with pytest.raises(CommandError, match="isn't a number of hours"):
            call_command("reconcile", "--hours", "0")

    def test_two_at_once_are_one(self) -> None:
        other = connection.copy()
        try:
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_lock(%s)", [wiring.RECONCILE_LOCK])

            with pytest.raises(CommandError, match="still in progress"):
                call_command("reconcile")
        finally:
            other.close()


@dataclass
class Minutes:
    """Both of the counter's tables in memory, with one row a minute."""

    orders: tuple[str, ...]

    def shards(self) -> Shards:
        return Shards((0,), CREATED_MS + 3_600_000)

    def counts(self, _table: Table, _shard: int, from_ms: int, to_ms: int) -> Counts:
        return Counts({at // MINUTE_MS * MINUTE_MS: {"EXCHANGE": 1} for at, _ in self._rows() if from_ms <= at < to_ms})

    def rows(self, _table: Table, _shard: int, after: Position, _limit: int) -> Page:
        return Page(CREATED_MS, tuple(columns for at, columns in self._rows() if at > after.ms), None)

    def _rows(self) -> list[tuple[int, dict[str, Any]]]:
        times = [(CREATED_MS + number * MINUTE_MS, order_id) for number, order_id in enumerate(self.orders)]
        return [(at, interface_row(order_id, id=str(at), user_id=order_id, shard=0, created_ms=str(at))) for at, order_id in times]


class TestInternalErrors:
    """BAD can't be opened, what comes in later minutes can."""

    @pytest.fixture
    def clearings(self) -> FakeClearings:
        def fail_with_bad(accepted: Sequence[AcceptedOrder]) -> None:
            if "BAD" in {stored.order.order_id for stored in accepted}:
                raise ZeroDivisionError("no plan for this order")

        return FakeClearings(while_opening=fail_with_bad, others_succeeded=faults.success_since())

    def test_keep_no_later_minute_out(self, clearings: FakeClearings) -> None:
        (found,) = Reconcile(Minutes(("BAD", "O1", "O2")), clearings.ingest_from_gap, RULES, page_rows=3, settle_ms=0).run(24)

        assert (held(), Quarantined.objects.get().reason) == ({"O1", "O2"}, "internal_error")
        assert (found.missing, found.fetched, found.error) == (3, 2, "")

    def test_that_nothing_speaks_against_are_told_of(self, clearings: FakeClearings) -> None:
        with capture_logs() as lines:
            (found,) = Reconcile(Minutes(("BAD",)), clearings.ingest_from_gap, RULES, page_rows=3, settle_ms=0).run(24)

        assert (found.missing, found.fetched, Quarantined.objects.count()) == (1, 0, 0)
        assert "no plan for this order" in found.error
        assert [line["alarm"] for line in lines if "alarm" in line] == ["intake_fault", "reconcile_difference"]


class TestWhatOperatorsSee:
    def test_metrics_of_the_last_run(self, counter: SandboxServer) -> None:
        order = counter.place("1")
        run()

        families = {family.name: family for family in text_string_to_metric_families(scrape.exposition().decode())}

        samples = {(found.labels["shard"], found.labels["kind"]): found.value for found in families["acceptance_reconcile_difference"].samples}
        assert (samples[str(order["shard"]), "missing"], samples[str(order["shard"]), "unresolved"]) == (1, 0)
        assert len(families["acceptance_reconcile_age_seconds"].samples) == 4

    def test_a_row_in_the_admin(self, counter: SandboxServer) -> None:
        order = counter.place("1")
        run()
        viewer: Client = person("looker", "view_reconcilerun")

        listed = viewer.get("/admin/orders/reconcilerun/?found=difference")
        found = listed.context["cl"].result_list

        assert [row.missing for row in found] == [1]
        assert order["order_id"] in viewer.get(f"/admin/orders/reconcilerun/{found[0].pk}/change/").content.decode()
