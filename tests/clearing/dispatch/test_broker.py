"""The broker's generation: asked for at most once a second, and never where a transaction is open.
And the way back to a broker that was away.
"""

import socket
import subprocess
import sys
from typing import Any

import pytest
from celery.worker import consumer as celery_consumer
from django.db import transaction
from kombu import Connection
from kombu.utils import functional
from kombu.utils.imports import symbol_by_name

from acceptance_site.celery import app
from acceptance_site.consumer import RETRY_SECONDS_MAX, Consumer
from clearing.dispatch import broker
from stack.rundir import CHECKOUT
from tests.support.processes import environment_here


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hasn't asked yet."""
    monkeypatch.setattr(broker, "_known", broker._Known())


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("forgotten")
class TestGeneration:
    def test_is_asked_for_where_no_transaction_is_open(self) -> None:
        assert broker.generation() == broker.last_generation() != ""

    def test_is_not_asked_for_inside_a_transaction(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(broker, "client", lambda: pytest.fail("the broker was asked inside a transaction"))

        with transaction.atomic():
            found = broker.generation()

        assert found == ""

    def test_that_was_read_before_is_known_inside(self) -> None:
        known = broker.generation()

        with transaction.atomic():
            assert broker.generation() == known


class SeenEnoughError(Exception):
    """Enough tries were seen."""


class TestReconnect:
    def test_a_worker_s_consumer_is_ours(self) -> None:
        assert symbol_by_name(app.conf.worker_consumer) is Consumer

    def test_a_broker_that_is_away_for_long_is_asked_again_each_second(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) > 400:  # Celery's own limit is a hundred tries
                raise SeenEnoughError

        monkeypatch.setattr(functional, "sleep", pause)
        monkeypatch.setattr(celery_consumer.consumer, "error", lambda *_: None)
        consumer: Any = Consumer.__new__(Consumer)
        consumer.app, consumer.first_connection_attempt, consumer.broker_connection_retry_attempt = app, False, 0

        with pytest.raises(SeenEnoughError):
            consumer.ensure_connected(Connection(f"redis://127.0.0.1:{closed_port()}/0", transport_options={"socket_connect_timeout": 0.2}))

        assert max(pauses) <= RETRY_SECONDS_MAX


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
def test_no_worker_obeys_what_is_written_to_the_broker() -> None:
    """Celery's remote control: who writes to the broker could stop, starve or throttle workers."""
    command = [sys.executable, "-m", "celery", "-A", "acceptance_site", "worker", "-Q", "ops", "-P", "threads", "-c", "1", "-n", "asked@%h"]
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment_here(LOG_LEVEL="INFO"), stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            assert any("ready." in line for line in worker.stdout)

            answers = app.control.broadcast("ping", reply=True, timeout=3)
            app.control.broadcast("shutdown")

            assert answers == []
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(3)
        finally:
            worker.terminate()


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
