"""Beat: of any number the leader alone sends, and nothing piles up."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import signals
from celery.apps.beat import Beat
from celery.beat import Service
from django.db import connection

from acceptance_site.celery import app
from base.models import LeaderTerm
from clearing.dispatch import broker
from clearing.dispatch.queues import OPS_QUEUE
from ops.beat import LeaderScheduler, waits
from ops.jobs.run import TERM_HEADER
from stack.rundir import CHECKOUT
from tests.support.waiting import wait_until

JOBS = {"ops.sweep", "ops.probe", "ops.gap_pass", "ops.reconcile", "ops.tidy", "ops.seal"}


class Elected:
    """Leads under whatever term it is given."""

    def __init__(self, term: int | None) -> None:
        self.term = term
        self.resigned = False

    def campaign(self) -> None:
        """Stands always."""

    def touch(self) -> None:
        """Lives always."""

    def resign(self) -> None:
        self.term, self.resigned = None, True


def headers() -> list[dict[str, Any]]:
    return [json.loads(message)["headers"] for message in broker.client().lrange(OPS_QUEUE, 0, -1)]


def tasks() -> list[str]:
    return sorted(header["task"] for header in headers())


class Dying:
    """Sends this process a SIGTERM in its finaliser, where Python drops what the handler raises."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


class TestStopping:
    def test_a_signal_in_a_finaliser_ends_it_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Celery's handler raises SystemExit, which is lost there; without the flag this beat would
        go on, and campaign for leadership again.
        """
        service = Service(app=app, scheduler_cls=LeaderScheduler)
        elected = Elected(None)
        service.scheduler._candidate = elected  # type: ignore[attr-defined]
        looked: list[int] = []

        def touch() -> None:
            looked.append(len(looked))
            if len(looked) == 1:
                Dying()
            assert len(looked) < 5, "it goes on"

        monkeypatch.setattr(elected, "touch", touch)
        monkeypatch.setattr(signals.beat_init, "receivers", [])  # no heart in the tests' own process
        monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        Beat(app=app).install_sync_handler(service)
        try:
            service.start()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

        assert len(looked) == 1
        assert elected.resigned


class TestBrokerAway:
    def test_who_begins_to_lead_waits_for_nothing(self, beat: Callable[[int | None], LeaderScheduler], monkeypatch: pytest.MonkeyPatch) -> None:
        scheduler = beat(1)
        monkeypatch.setattr(scheduler.connection, "ensure_connection", lambda *_, **__: pytest.fail("it stands still until the broker is back"))

        scheduler.tick()

        assert tasks()


@pytest.fixture
def beat() -> Iterator[Callable[[int | None], LeaderScheduler]]:
    broker.client().flushdb()
    made = []

    def make(term: int | None) -> LeaderScheduler:
        scheduler = LeaderScheduler(app=app)
        scheduler._candidate = Elected(term)  # type: ignore[assignment]
        made.append(scheduler)
        return scheduler

    yield make
    for scheduler in made:
        scheduler.close()
    broker.client().flushdb()


def ticks(scheduler: LeaderScheduler, count: int = 10) -> None:
    for _ in range(count):
        scheduler.tick()


class TestLeaderScheduler:
    def test_who_does_not_lead_sends_nothing(self, beat: Callable[[int | None], LeaderScheduler]) -> None:
        ticks(beat(None))

        assert tasks() == []

    def test_a_new_leader_sends_every_job_at_once_with_its_term(self, beat: Callable[[int | None], LeaderScheduler]) -> None:
        ticks(beat(7))

        assert set(tasks()) == JOBS
        assert {header[TERM_HEADER] for header in headers()} == {7}

    def test_a_job_that_waits_is_not_piled_up(self, beat: Callable[[int | None], LeaderScheduler], monkeypatch: pytest.MonkeyPatch) -> None:
        scheduler = beat(7)
        for _ in range(5):
            scheduler._make_all_due()
            ticks(scheduler)

        assert tasks() == sorted(JOBS)

    def test_one_that_was_taken_is_sent_again(self, beat: Callable[[int | None], LeaderScheduler]) -> None:
        scheduler = beat(7)
        ticks(scheduler)
        broker.client().delete(OPS_QUEUE)  # by a worker, which may have died with it

        scheduler._make_all_due()
        ticks(scheduler)

        assert tasks() == sorted(JOBS)

    def test_what_waits_of_an_older_term_keeps_nothing_back(self, beat: Callable[[int | None], LeaderScheduler]) -> None:
        ticks(beat(7))

        ticks(beat(8))

        assert [header[TERM_HEADER] for header in headers()].count(8) == len(JOBS)

    def test_a_queue_that_nobody_empties_does_not_grow(self, beat: Callable[[int | None], LeaderScheduler]) -> None:
        broker.client().rpush(OPS_QUEUE, *(["not a message of ours"] * 60))

        ticks(beat(7))

        assert broker.length(OPS_QUEUE) == 60
        assert waits("ops.sweep", 7)

    def test_a_broker_that_is_away_does_not_end_it(
        self, beat: Callable[[int | None], LeaderScheduler], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        scheduler = beat(7)

        def away(*_: object) -> int:
            raise redis.ConnectionError("away")

        with monkeypatch.context() as patched:
            patched.setattr(broker, "length", away)
            ticks(scheduler)
        scheduler._make_all_due()
        ticks(scheduler)

        assert set(tasks()) == JOBS

    def test_stopping_hands_over_first(self, beat: Callable[[int | None], LeaderScheduler]) -> None:
        scheduler = beat(7)
        candidate = scheduler._candidate

        scheduler.close()

        assert isinstance(candidate, Elected)
        assert candidate.resigned

    def test_is_what_beat_runs_without_being_told(self) -> None:
        assert app.conf.beat_scheduler == "ops.beat:LeaderScheduler"


@pytest.mark.processes
@pytest.mark.usefixtures("transactional_db")
class TestTwoBeats:
    def test_one_sends_and_the_other_takes_over_when_it_is_stopped(self) -> None:
        broker.client().flushdb()
        url = connection.settings_dict
        database = f"postgresql://{url['USER']}@{url['HOST']}:{url['PORT']}/{url['NAME']}"
        command = [sys.executable, "-m", "celery", "-A", "acceptance_site", "beat", "-S", "ops.beat:LeaderScheduler"]
        environment = {**os.environ, "DATABASE_URL": database}
        beats = [subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
        try:
            wait_until(lambda: set(tasks()) == JOBS, seconds=60)
            wait_until(lambda: connection_count() == 2, seconds=60)
            first = LeaderTerm.objects.get()
            leading = next(each for each in beats if f":{each.pid}:" in first.leader)
            assert {header[TERM_HEADER] for header in headers()} == {first.term}

            leading.send_signal(signal.SIGTERM)

            assert leading.wait(20) == 0
            wait_until(lambda: first.term + 1 in {header[TERM_HEADER] for header in headers()})
            assert LeaderTerm.objects.get().reason == "the leader stood down"
        finally:
            for each in beats:
                each.kill()
                each.wait()
            broker.client().flushdb()


def connection_count() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM base_candidate")
        found: int = cursor.fetchone()[0]
    return found
