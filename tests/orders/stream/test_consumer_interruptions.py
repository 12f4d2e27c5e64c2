"""Interruptions of the consumer: a crash, an unavailable database or broker, a rebalance, an
internal error. Each order is still accepted once.
"""

import itertools
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from django.conf import settings as configured
from django.db import OperationalError, connection, transaction
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata
from pytest_django import Settings
from structlog.testing import capture_logs

from orders.intake.classify import Item
from orders.intake.result import IngestResult
from orders.models import Quarantined
from orders.stream import consumer
from orders.stream.consumer import ExitCode, connect
from tests.orders.conftest import Emulator, Topic
from tests.orders.consumers import Crash, Running, lag, orders, running, stored
from tests.orders.fakes import FakeClearings
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]


class TestInterruptions:
    def test_a_crash_before_the_offset_is_committed_repeats_and_changes_nothing(self, topic: Topic, clearings: FakeClearings) -> None:
        def taken_then_dead(items: Sequence[Item]) -> IngestResult:
            clearings.ingest(items)
            raise Crash

        topic.send(*orders(*range(10)), partition=0)
        crashed = Running(taken_then_dead)
        wait_until(lambda: stored() == 10)
        crashed.stop()

        with running(clearings.ingest) as again:
            wait_until(lambda: again.consumer.total.known == 10)

        assert (stored(), len(clearings.opened), clearings.held) == (10, 10, [])

    def test_a_database_that_is_away_is_waited_for(self, topic: Topic, clearings: FakeClearings) -> None:
        failures = iter(range(3))

        def sometimes(items: Sequence[Item]) -> IngestResult:
            if next(failures, None) is not None:
                raise OperationalError("the server is starting up")
            return clearings.ingest(items)

        with running(sometimes):
            topic.send(*orders(*range(10)))
            wait_until(lambda: stored() == 10)

    @pytest.mark.parametrize(
        ("sql", "alarms"),
        [
            ("DO $$ BEGIN RAISE EXCEPTION 'could not read block 7' USING ERRCODE = 'XX001'; END $$", ["intake_fault"]),
            ("SET TRANSACTION READ ONLY; DELETE FROM orders_watermark", []),  # as a primary that was demoted says it
        ],
    )
    def test_a_database_that_fails_again_and_again_raises_an_alarm(self, topic: Topic, clearings: FakeClearings, sql: str, alarms: list[str]) -> None:
        failures = iter(range(consumer.INTERNAL_ERRORS_BEFORE_ALARM))

        def broken(items: Sequence[Item]) -> IngestResult:
            if next(failures, None) is not None:
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute(sql)
            return clearings.ingest(items)

        with capture_logs() as lines, running(broken):
            topic.send(*orders(1))
            wait_until(lambda: stored() == 1)

        assert [line["alarm"] for line in lines if "alarm" in line] == alarms

    def test_the_lag_shows_how_the_log_grows_while_the_database_is_away(self, topic: Topic, clearings: FakeClearings) -> None:
        asked, back = threading.Event(), threading.Event()

        def away(items: Sequence[Item]) -> IngestResult:
            asked.set()
            if not back.is_set():
                raise OperationalError("the server is starting up")
            return clearings.ingest(items)

        with running(away):
            topic.send(*orders(1))
            assert asked.wait(20)
            topic.send(*orders(*range(2, 42)))
            wait_until(lambda: lag() == 40)

            back.set()
            wait_until(lambda: (stored(), lag()) == (41, 0))

    def test_a_broken_connection_to_the_database_is_mended(self, topic: Topic, clearings: FakeClearings) -> None:
        with running(clearings.ingest):
            topic.send(*orders(1))
            wait_until(lambda: stored() == 1)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            topic.send(*orders(2))

            wait_until(lambda: stored() == 2)

    def test_a_stop_ends_the_waiting_for_the_database(self, topic: Topic) -> None:
        tried = threading.Event()

        def never(_: Sequence[Item]) -> IngestResult:
            tried.set()
            raise OperationalError("away")

        with running(never) as waiting:
            topic.send(*orders(1))
            assert tried.wait(10)
            waiting.stop()

        assert waiting.ended == ExitCode.STOPPED

    @pytest.mark.parametrize("error", [kafka_errors.CommitFailedError, kafka_errors.IllegalGenerationError, kafka_errors.RebalanceInProgressError])
    def test_a_commit_that_a_rebalance_refuses_is_survived(self, topic: Topic, clearings: FakeClearings, error: type[Exception]) -> None:
        refusals = iter(range(2))
        committed = threading.Event()

        def with_a_refusing_group(_: object) -> Any:
            log = connect(configured.KAFKA_GROUP)
            commit = log.commit

            def refuse_at_first(*given: Any, **named: Any) -> None:
                if next(refusals, None) is not None:
                    refuse(error)
                commit(*given, **named)
                committed.set()

            log.commit = refuse_at_first
            return log

        with running(clearings.ingest, open_log=with_a_refusing_group):
            for number in range(4):
                topic.send(*orders(number), partition=0)
                wait_until(lambda: stored() == number + 1)  # noqa: B023
            assert committed.wait(10)

        with running(clearings.ingest, idle_seconds=0.3) as again:
            wait_until(lambda: again.ended is not None)
        assert again.consumer.total.known == 0

    def test_a_faulty_release_quarantines_nothing_and_a_mended_one_takes_all_in(self, topic: Topic, clearings: FakeClearings) -> None:
        clearings.while_opening = fail_internally
        topic.send(*orders(*range(8)))
        with capture_logs() as lines, running(clearings.ingest) as faulty:
            wait_until(lambda: faulty.consumer._faults > 1)
        assert (stored(), Quarantined.objects.count()) == (0, 0)
        assert {line["alarm"] for line in lines if "alarm" in line} == {"intake_fault"}

        clearings.while_opening = lambda _: None
        with running(clearings.ingest):
            wait_until(lambda: stored() == 8)

    def test_an_order_that_we_fail_with_waits_for_others_and_then_lets_them_pass(self, topic: Topic, clearings: FakeClearings) -> None:
        clearings.while_opening = lambda accepted: fail_internally(accepted) if "O0001" in {stored.order.order_id for stored in accepted} else None
        with running(clearings.ingest) as reading:
            topic.send(*orders(1), partition=0)
            wait_until(lambda: reading.consumer._faults > 0)
            assert Quarantined.objects.count() == 0

            topic.send(*orders(2, 3), partition=0)
            wait_until(lambda: stored() == 2)
            wait_until(lambda: Quarantined.objects.count() == 1)

        assert (Quarantined.objects.get().reason, Quarantined.objects.get().order_id) == ("internal_error", "O0001")

    def test_a_second_member_takes_its_share(self, topic: Topic, clearings: FakeClearings) -> None:
        others = FakeClearings()
        with running(clearings.ingest), running(others.ingest):
            sent = itertools.count()

            def send_until_the_second_has_some() -> bool:
                number = next(sent)
                topic.send(*orders(4 * number, 4 * number + 1, 4 * number + 2, 4 * number + 3))
                return bool(others.opened)

            wait_until(send_until_the_second_has_some, seconds=30)
            count = 4 * next(sent)
            wait_until(lambda: stored() == count)

        assert others.opened

    def test_a_fenced_static_member_ends_with_a_clear_line(self, topic: Topic, clearings: FakeClearings) -> None:
        def fenced(_: object) -> Any:
            log = connect(configured.KAFKA_GROUP)
            log.poll = lambda **_: refuse(kafka_errors.FencedInstanceIdError)
            return log

        with running(clearings.ingest, open_log=fenced) as refused:
            wait_until(lambda: refused.ended is not None)

        assert refused.ended == ExitCode.FENCED

    def test_missing_rights_end_with_a_clear_line(self, topic: Topic, clearings: FakeClearings) -> None:
        def forbidden(_: object) -> Any:
            log = connect(configured.KAFKA_GROUP)
            log.poll = lambda **_: refuse(kafka_errors.TopicAuthorizationFailedError)
            return log

        with running(clearings.ingest, open_log=forbidden) as refused:
            wait_until(lambda: refused.ended is not None)

        assert refused.ended == ExitCode.NOT_ALLOWED


def refuse(error: type[Exception]) -> None:
    raise error


def fail_internally(_: object) -> None:
    raise TypeError("an internal error")


class TestBrokerThatLosesItsLog:
    def test_is_read_on_by_a_running_consumer(self, emulator: Emulator, clearings: FakeClearings) -> None:
        topic = Topic(emulator.url, "orders")
        emulator.start("orders")
        with running(clearings.ingest):
            topic.send(*orders(*range(100)))
            wait_until(lambda: stored() == 100)
            emulator.kill()
            emulator.start("orders")
            topic.send(*orders(*range(100, 110)), partition=0)  # it may know fewer partitions now

            wait_until(lambda: stored() == 110, seconds=30)

        assert clearings.held == []

    def test_is_read_from_its_beginning_by_a_consumer_whose_offset_lies_beyond_the_end(
        self, emulator: Emulator, clearings: FakeClearings, settings: Settings
    ) -> None:
        settings.KAFKA_INSTANCE_ID = "slot-1"
        topic = Topic(emulator.url, "orders")
        emulator.start("orders")
        topic.send(*orders(*range(8)))
        log = connect("orders")
        wait_until(lambda: log.poll(timeout_ms=200))
        log.commit({partition: OffsetAndMetadata(5_000, "", -1) for partition in log.assignment()})
        log.close(timeout_ms=500)

        with running(clearings.ingest):
            wait_until(lambda: stored() == 8)

    def test_is_waited_for_while_it_is_down(self, emulator: Emulator, clearings: FakeClearings) -> None:
        with running(clearings.ingest):
            emulator.start("orders")
            Topic(emulator.url, "orders").send(*orders(1, 2, 3), partition=0)  # the consumer may have had it made, with one

            wait_until(lambda: stored() == 3, seconds=20)
