"""Health, readiness and metrics over HTTP."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from prometheus_client.parser import text_string_to_metric_families
from pytest_django import Settings

from base import metrics
from clearing.gateways import counterparty_state
from ops.monitoring import health, scrape
from ops.monitoring.health import Latest, Probe, ProbeError, Result, run_probes
from orders.models import Watermark
from tests.support.bulk import create_orders, remove_orders


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known from an earlier test."""
    monkeypatch.setattr(health, "latest", Latest())
    health.disk_migrations.cache_clear()
    yield
    health.disk_migrations.cache_clear()


class TestProbes:
    def test_a_probe_that_passes_is_ok(self) -> None:
        (result,) = run_probes([Probe("fine", lambda: None, "nothing")])

        assert (result.status, result.error) == ("ok", "")

    def test_a_failure_says_what_and_how_to_mend_it(self) -> None:
        def refuse() -> None:
            raise ProbeError("it is gone")

        (result,) = run_probes([Probe("gone", refuse, "start it")])

        assert result.status == "failed"
        assert result.as_dict() == {"status": "failed", "ms": pytest.approx(0, abs=1000), "error": "it is gone", "fix": "start it"}

    def test_one_that_only_warns_fails_nothing(self) -> None:
        def refuse() -> None:
            raise ProbeError("it is gone")

        (result,) = run_probes([Probe("gone", refuse, "start it", only_warns=True)])

        assert result.status == "warning"

    def test_a_slow_one_does_not_hold_the_others_up(self) -> None:
        may_end, ended = threading.Event(), threading.Event()

        def wait() -> None:
            may_end.wait(60)
            ended.set()

        slow, quick = run_probes([Probe("slow", wait, "wait"), Probe("quick", lambda: None, "")], seconds_max=1)

        assert (slow.status, quick.status, ended.is_set()) == ("failed", "ok", False)
        may_end.set()


class TestLatest:
    def test_is_found_once_for_all_who_ask_at_the_same_time(self) -> None:
        may_end = threading.Event()
        runs: list[int] = []

        def run() -> list[Result]:
            runs.append(1)
            may_end.wait(30)
            return []

        latest = Latest(run)
        asking = [threading.Thread(target=latest.results) for _ in range(8)]
        for thread in asking:
            thread.start()
        time.sleep(0.2)
        may_end.set()
        for thread in asking:
            thread.join(30)

        assert len(runs) == 1

    def test_is_good_for_two_seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 100.0
        runs: list[int] = []
        monkeypatch.setattr(health, "monotonic", lambda: now)

        def run() -> list[Result]:
            runs.append(1)
            return []

        latest = Latest(run)

        for after in (0.0, 1.9, 2.1, 3.0):
            now = 100.0 + after
            latest.results()

        assert len(runs) == 2

    def test_nobody_waits_for_a_probe_that_hangs_once_there_is_an_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, hangs, may_end = 100.0, threading.Event(), threading.Event()
        monkeypatch.setattr(health, "monotonic", lambda: now)
        first = Result(Probe("first", lambda: None, ""), "", 1.0)

        def run() -> list[Result]:
            if now > 100:
                hangs.set()
                may_end.wait(30)
            return [first]

        latest = Latest(run)
        latest.results()
        now = 110.0
        probing = threading.Thread(target=latest.results)
        probing.start()
        hangs.wait(30)

        assert (latest.results(), probing.is_alive()) == ([first], True)
        may_end.set()
        probing.join(30)

    def test_a_run_that_raises_leaves_the_next_one_free(self) -> None:
        answers: Iterator[Exception | list[Result]] = iter([ZeroDivisionError(), []])

        def run() -> list[Result]:
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        latest = Latest(run)
        with pytest.raises(ZeroDivisionError):
            latest.results()

        assert latest.results() == []


@pytest.mark.django_db
class TestStrangers:
    TOKEN = "a-token-of-the-monitoring"

    @pytest.fixture(autouse=True)
    def production(self, settings: Settings, anew: None) -> None:
        settings.MONITORING_TOKEN = self.TOKEN

    def test_learn_whether_it_is_ready_and_nothing_else(self, client: Client, settings: Settings) -> None:
        settings.BROKER_URL = "redis://:secret@127.0.0.1:1/0"

        ready, alive, metrics_page = (client.get(f"/{name}") for name in ("readyz", "healthz", "metrics"))

        assert (ready.status_code, ready.json()) == (503, {"status": "not ready"})
        assert alive.json() == {"status": "ok"}
        assert (metrics_page.status_code, metrics_page.content, metrics_page["WWW-Authenticate"]) == (401, b"", "Bearer")

    @pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
    def test_are_all_who_send_another_token(self, client: Client, given: str) -> None:
        assert client.get("/metrics", headers={"Authorization": given}).status_code == 401

    def test_are_not_those_who_send_it(self, client: Client) -> None:
        headers = {"Authorization": f"Bearer {self.TOKEN}"}

        assert "probes" in client.get("/readyz", headers=headers).json()
        assert client.get("/metrics", headers=headers).status_code == 200

    def test_are_not_those_who_ask_on_the_internal_port(self, client: Client, settings: Settings) -> None:
        settings.METRICS_PORT = 9100

        inside = client.get("/readyz", SERVER_PORT="9100")
        outside = client.get("/readyz", SERVER_PORT="8000", headers={"X-Forwarded-Port": "9100", "Host": "localhost:9100"})

        assert ("probes" in inside.json(), "probes" in outside.json()) == (True, False)

    def test_are_all_in_production_without_a_token(self, client: Client, settings: Settings) -> None:
        settings.MONITORING_TOKEN, settings.PRODUCTION = "", True

        assert (client.get("/metrics").status_code, "probes" in client.get("/readyz").json()) == (401, False)

    def test_who_ask_again_and_again_cost_one_probe(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        connected: list[int] = []

        def connect() -> None:
            connected.append(1)
            raise ProbeError("away")

        monkeypatch.setattr(health, "_connect", connect)

        for _ in range(50):
            client.get("/readyz")

        assert len(connected) <= 4  # a database and a migrations probe, and once more if the two seconds end meanwhile


@pytest.mark.django_db
class TestEndpoints:
    @pytest.fixture(autouse=True)
    def _anew(self, anew: None) -> None:
        """Each test finds what is so now."""

    def test_healthz_asks_nobody(self, client: Client, settings: Settings) -> None:
        settings.BROKER_URL = "redis://127.0.0.1:1/0"

        answer = client.get("/healthz")

        assert answer.status_code == 200
        assert answer.json()["status"] == "ok"

    def test_readyz_names_each_probe(self, client: Client) -> None:
        answer = client.get("/readyz")

        assert answer.status_code == 200, answer.content
        assert {name: probe["status"] for name, probe in answer.json()["probes"].items() if name != "kafka"} == {
            "database": "ok",
            "migrations": "ok",
            "first_start": "ok",
            "broker": "ok",
        }

    def test_readyz_fails_without_a_broker_and_says_how_to_mend_it(self, client: Client, settings: Settings) -> None:
        settings.BROKER_URL = "redis://127.0.0.1:1/0"

        answer = client.get("/readyz")

        assert answer.status_code == 503
        assert "BROKER_URL" in answer.json()["probes"]["broker"]["fix"]

    def test_readyz_only_warns_without_kafka(self, client: Client, settings: Settings) -> None:
        settings.KAFKA_BOOTSTRAP_SERVERS = ["127.0.0.1:1"]

        answer = client.get("/readyz")

        assert answer.status_code == 200
        assert answer.json()["probes"]["kafka"]["status"] == "warning"

    def test_readyz_fails_while_a_migration_is_missing(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        class Loader:
            def __init__(self, _connection: None) -> None:
                self.disk_migrations: dict[tuple[str, str], Any] = {("orders", "9999_to_come"): None}

        monkeypatch.setattr(health, "MigrationLoader", Loader)

        answer = client.get("/readyz")

        assert answer.status_code == 503
        assert "orders.9999_to_come" in json.dumps(answer.json())


@pytest.mark.django_db
class TestMetricsPage:
    def samples(self, client: Client) -> dict[tuple[str, ...], float]:
        answer = client.get("/metrics")
        assert answer.status_code == 200, answer.content
        text = answer.content.decode()
        return {(sample.name, *sample.labels.values()): sample.value for family in text_string_to_metric_families(text) for sample in family.samples}

    def test_it_counts_clearings_by_state_and_age(self, client: Client) -> None:
        create_orders(400, users=40)

        found = self.samples(client)

        assert found["acceptance_clearings", "parked"] > 0
        assert found["acceptance_clearings_oldest_seconds", "parked"] > 0
        assert found["acceptance_cleared_last_minute",] > 300
        assert 0 <= found["acceptance_newest_order_age_seconds",] < 60
        assert found["acceptance_scrape_ok", "database"] == 1

    def test_it_tells_how_far_each_shard_is_known(self, client: Client) -> None:
        now_ms = int(time.time() * 1000)
        Watermark.objects.create(shard=1, newest_ms=now_ms - 5_000, scanned_through_ms=now_ms - 31_000, found_by_gap=12)
        Watermark.objects.create(shard=2, newest_ms=now_ms - 5_000)

        found = self.samples(client)

        assert 5 <= found["acceptance_shard_age_seconds", "newest", "1"] < 30
        assert 31 <= found["acceptance_shard_age_seconds", "compared", "1"] < 60
        assert found["acceptance_shard_found_by_gap", "1"] == 12
        assert ("acceptance_shard_age_seconds", "compared", "2") not in found

    def test_it_shows_how_each_counterparty_stands(self, client: Client) -> None:
        counterparty_state.open_breaker("fund", "timeout", refuses=False, actor="w")
        counterparty_state.set_pause("trading", 3, paused=True, reason="the market is closed", actor="ann")

        found = self.samples(client)

        breakers = {key[1:] for key, value in found.items() if key[0] == metrics.BREAKER.name and value}
        paused = {key[1:]: value for key, value in found.items() if key[0] == metrics.PAUSED.name}
        assert breakers == {("counter", "closed"), ("fund", "open"), ("trading", "closed")}
        assert paused == {(name, "all"): 0 for name in ("counter", "fund", "trading")} | {
            ("counter", "1"): 0,
            ("fund", "2"): 0,
            ("trading", "3"): 1,
            ("fund", "4"): 0,
        }

    def test_a_source_that_does_not_answer_is_reported_and_not_guessed(self, client: Client, settings: Settings) -> None:
        settings.BROKER_URL = "redis://127.0.0.1:1/0"

        found = self.samples(client)

        assert found["acceptance_scrape_ok", "broker"] == 0
        assert not [key for key in found if key[0] == metrics.QUEUE_MESSAGES.name]
        assert found["acceptance_scrape_ok", "database"] == 1

    @pytest.mark.parametrize(("sql", "index"), [(scrape.UNFINISHED_SQL, "clearing_unfinished"), (scrape.CLEARED_SQL, "clearing_cleared")])
    def test_finished_orders_cost_a_scrape_nothing(self, sql: str, index: str) -> None:
        create_orders(4_000, users=40)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE clearing_clearing SET cleared_at = cleared_at - interval '1 day' WHERE state = 'cleared' AND id % 50 <> 0")
            cursor.execute("ANALYZE clearing_clearing")
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT TEXT) {sql}")
            plan = "\n".join(row[0] for row in cursor.fetchall())

        assert index in plan
        assert "Rows Removed by Filter" not in plan

    def test_a_scrape_makes_as_many_queries_for_four_hundred_orders_as_for_four(self, client: Client) -> None:
        def queries_of_a_scrape() -> int:
            with CaptureQueriesContext(connection) as queries:
                assert self.samples(client)["acceptance_scrape_ok", "database"] == 1
            return len(queries)

        create_orders(4, users=4)
        with_four = queries_of_a_scrape()
        remove_orders()
        create_orders(400, users=40)

        assert queries_of_a_scrape() == with_four
        assert 0 < with_four <= 9
