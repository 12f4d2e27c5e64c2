"""One order by each of the ways in: stream, gap pass, reconcile; and a replay that finds them all
known. Sandbox and Kafka are real.
"""

import threading
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from django.conf import settings as configured
from django.core.management import call_command
from pytest_django import Settings

from base.http import SignedClient
from clearing.dispatch import broker
from clearing.models import Clearing
from ops import wiring
from orders.intake.first_start import current_rules
from orders.models import SyncOrder
from orders.stream.consumer import BinlogConsumer, ExitCode, connect
from tests.orders.conftest import Topic
from tests.support.sandbox import SandboxServer, running_sandbox

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def counter(tmp_path: Path, topic: Topic, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[SandboxServer]:
    with running_sandbox(tmp_path / "sandbox", topic.servers, topic=topic.name) as server:
        monkeypatch.setattr(wiring, "_counter", lambda: SignedClient(server.counter_url, settings.COUNTERPARTY_KEYS["counter"]))
        settings.RECONCILE_SETTLE_MS = -1_000
        yield server
    broker.client().flushdb()


def place(counter: SandboxServer, fault: str = "") -> str:
    if fault:
        counter.set_fault(kind=fault, counterparty="counter", operation="place", count=1)
    return str(counter.place("4711")["order_id"])


def test_each_order_gets_in_once(counter: SandboxServer, topic: Topic) -> None:
    expected = {place(counter, "no_sync_row"): "gap", place(counter, "not_streamed"): "gap", place(counter): "kafka"}

    consumer = BinlogConsumer(partial(connect, configured.KAFKA_GROUP), wiring.ingest_from_kafka, current_rules, threading.Event(), idle_seconds=3)
    assert consumer.run() == ExitCode.STOPPED
    by_stream = SyncOrder.objects.count()
    wiring.run_gap_pass()
    by_gap = SyncOrder.objects.count()
    wiring.run_reconcile(24)
    report = StringIO()
    call_command("replay", "--from-time", "2020-01-01", stdout=report)

    assert (by_stream, by_gap) == (1, 2)
    assert dict(SyncOrder.objects.values_list("order_id", "source")) == expected
    assert Clearing.objects.count() == 3
    assert "0 new, 1 known" in report.getvalue()
    placed = {row["order_id"] for row in counter.open_page("/sandbox/orders")["rows"]}
    assert placed == set(expected)
