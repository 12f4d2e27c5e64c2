import itertools
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from django.conf import settings as configured
from django.db import OperationalError, connection, transaction
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata
from pytest_django import Settings
from structlog.testing import capture_logs

from base import metrics
from clearing.models import Clearing
from orders import consumer
from orders.arrivals import Item
from orders.consumer import BinlogConsumer, ExitCode, connect
from orders.ingest import IngestResult
from orders.models import Quarantined, SyncOrder
from stack.kafka import ensure_topic
from tests.orders.conftest import Emulator, Topic
from tests.orders.doors import Doors
from tests.orders.messages import RULES, message, row
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]


class Crash(BaseException):
    """What nothing in the consumer may catch, like a SIGKILL."""


@dataclass
class Running:
    """A consumer in a thread."""

    take: Callable[[Sequence[Item]], IngestResult]
    idle_seconds: float | None = None
    open_log: Callable[[], Any] = field(default_factory=lambda: partial(connect, configured.KAFKA_GROUP))
    stopping: threading.Event = field(default_factory=threading.Event)
    ended: ExitCode | None = None

    def __post_init__(self) -> None:
        self.consumer = BinlogConsumer(self.open_log, self.take, RULES, self.stopping, idle_seconds=self.idle_seconds)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            with suppress(Crash):
                self.ended = self.consumer.run()
        finally:
            connection.close()

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@contextmanager
def running(take: Callable[[Sequence[Item]], IngestResult], **options: Any) -> Iterator[Running]:
    started = Running(take, **options)
    try:
        yield started
    finally:
        started.stop()


def orders(*numbers: int) -> list[bytes]:
    return [message(row(f"O{number:04d}", user_id=str(number))) for number in numbers]


def lag() -> float:
    return sum(float(metrics.INTAKE_LAG.labels(str(partition))._value.get()) for partition in range(4))


def stored() -> int:
    return SyncOrder.objects.count()


class TestReading:
    def test_every_message_is_taken_in_once(self, topic: Topic, doors: Doors) -> None:
        with running(doors.take):
            topic.send(*orders(*range(50)), None, b"garbage")
            wait_until(lambda: stored() == 50 and Quarantined.objects.count() == 1)

        assert len(doors.opened) == len(doors.published) == 50

    def test_goes_on_where_it_ended(self, topic: Topic, doors: Doors) -> None:
        topic.send(*orders(*range(10)))
        with running(doors.take):
            wait_until(lambda: stored() == 10)
        topic.send(*orders(10))

        with running(doors.take) as again:
            wait_until(lambda: stored() == 11)

        assert again.consumer.total.known == 0

    def test_of_another_group_from_the_beginning_changes_nothing(self, topic: Topic, doors: Doors) -> None:
        topic.send(*orders(*range(10)))
        with running(doors.take):
            wait_until(lambda: stored() == 10)

        with running(doors.take, open_log=partial(connect, "look-again"), idle_seconds=0.5) as again:
            wait_until(lambda: again.ended is not None)

        assert (again.ended, again.consumer.total.known, again.consumer.total.accepted) == (ExitCode.STOPPED, 10, 0)

    def test_takes_a_few_milliseconds(self, topic: Topic, doors: Doors) -> None:
        came_after_ms: list[float] = []
        sent_at = 0.0

        def measured(items: Sequence[Item]) -> IngestResult:
            result = doors.take(items)
            came_after_ms.append((time.perf_counter() - sent_at) * 1000)
            return result

        with running(measured):
            topic.send(*orders(0))
            wait_until(lambda: stored() == 1)
            for number in range(1, 21):
                sent_at = time.perf_counter()
                topic.send(*orders(number))
                wait_until(lambda: len(came_after_ms) > number, pause_seconds=0.002)  # noqa: B023

        assert statistics.median(came_after_ms[1:]) < 1_000  # making a producer is most of it; `make bench-intake` measures


class TestInterruptions:
    def test_a_crash_before_the_offset_is_committed_repeats_and_changes_nothing(self, topic: Topic, doors: Doors) -> None:
        def taken_then_dead(items: Sequence[Item]) -> IngestResult:
            doors.take(items)
            raise Crash

        topic.send(*orders(*range(10)), partition=0)
        crashed = Running(taken_then_dead)
        wait_until(lambda: stored() == 10)
        crashed.stop()

        with running(doors.take) as again:
            wait_until(lambda: again.consumer.total.known == 10)

        assert (stored(), len(doors.opened), doors.held) == (10, 10, [])

    def test_a_database_that_is_away_is_waited_for(self, topic: Topic, doors: Doors) -> None:
        failures = iter(range(3))

        def sometimes(items: Sequence[Item]) -> IngestResult:
            if next(failures, None) is not None:
                raise OperationalError("the server is starting up")
            return doors.take(items)

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
    def test_a_database_that_fails_again_and_again_raises_an_alarm(self, topic: Topic, doors: Doors, sql: str, alarms: list[str]) -> None:
        failures = iter(range(consumer.INTERNAL_ERRORS_BEFORE_ALARM))

        def broken(items: Sequence[Item]) -> IngestResult:
            if next(failures, None) is not None:
                with transaction.atomic(), connection.cursor() as cursor:
                    cursor.execute(sql)
            return doors.take(items)

        with capture_logs() as lines, running(broken):
            topic.send(*orders(1))
            wait_until(lambda: stored() == 1)

        assert [line["alarm"] for line in lines if "alarm" in line] == alarms

    def test_the_lag_shows_how_the_log_grows_while_the_database_is_away(self, topic: Topic, doors: Doors) -> None:
        asked, back = threading.Event(), threading.Event()

        def away(items: Sequence[Item]) -> IngestResult:
            asked.set()
            if not back.is_set():
                raise OperationalError("the server is starting up")
            return doors.take(items)

        with running(away):
            topic.send(*orders(1))
            assert asked.wait(20)
            topic.send(*orders(*range(2, 42)))
            wait_until(lambda: lag() == 40)

            back.set()
            wait_until(lambda: (stored(), lag()) == (41, 0))

    def test_a_broken_connection_to_the_database_is_mended(self, topic: Topic, doors: Doors) -> None:
        with running(doors.take):
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
    def test_a_commit_that_a_rebalance_refuses_is_survived(self, topic: Topic, doors: Doors, error: type[Exception]) -> None:
        refusals = iter(range(2))
        committed = threading.Event()

        def with_a_refusing_group() -> Any:
            log = connect(configured.KAFKA_GROUP)
            commit = log.commit

            def refuse_at_first(*given: Any, **named: Any) -> None:
                if next(refusals, None) is not None:
                    refuse(error)
                commit(*given, **named)
                committed.set()

            log.commit = refuse_at_first
            return log

        with running(doors.take, open_log=with_a_refusing_group):
            for number in range(4):
                topic.send(*orders(number), partition=0)
                wait_until(lambda: stored() == number + 1)  # noqa: B023
            assert committed.wait(10)

        with running(doors.take, idle_seconds=0.3) as again:
            wait_until(lambda: again.ended is not None)
        assert again.consumer.total.known == 0

    def test_a_faulty_release_quarantines_nothing_and_a_mended_one_takes_all_in(self, topic: Topic, doors: Doors) -> None:
        doors.while_opening = mistake
        topic.send(*orders(*range(8)))
        with capture_logs() as lines, running(doors.take) as faulty:
            wait_until(lambda: faulty.consumer._faults > 1)
        assert (stored(), Quarantined.objects.count()) == (0, 0)
        assert {line["alarm"] for line in lines if "alarm" in line} == {"intake_fault"}

        doors.while_opening = lambda _: None
        with running(doors.take):
            wait_until(lambda: stored() == 8)

    def test_an_order_that_we_fail_with_waits_for_others_and_then_lets_them_pass(self, topic: Topic, doors: Doors) -> None:
        doors.while_opening = lambda accepted: mistake(accepted) if "O0001" in {stored.order.order_id for stored in accepted} else None
        with running(doors.take) as reading:
            topic.send(*orders(1), partition=0)
            wait_until(lambda: reading.consumer._faults > 0)
            assert Quarantined.objects.count() == 0

            topic.send(*orders(2, 3), partition=0)
            wait_until(lambda: stored() == 2)
            wait_until(lambda: Quarantined.objects.count() == 1)

        assert (Quarantined.objects.get().reason, Quarantined.objects.get().order_id) == ("internal_error", "O0001")

    def test_a_second_member_takes_its_share(self, topic: Topic, doors: Doors) -> None:
        others = Doors()
        with running(doors.take), running(others.take):
            sent = itertools.count()

            def send_until_the_second_has_some() -> bool:
                number = next(sent)
                topic.send(*orders(4 * number, 4 * number + 1, 4 * number + 2, 4 * number + 3))
                return bool(others.opened)

            wait_until(send_until_the_second_has_some, seconds=30)
            count = 4 * next(sent)
            wait_until(lambda: stored() == count)

        assert others.opened

    def test_a_fenced_static_member_ends_with_a_clear_line(self, topic: Topic, doors: Doors) -> None:
        def fenced() -> Any:
            log = connect(configured.KAFKA_GROUP)
            log.poll = lambda **_: refuse(kafka_errors.FencedInstanceIdError)
            return log

        with running(doors.take, open_log=fenced) as refused:
            wait_until(lambda: refused.ended is not None)

        assert refused.ended == ExitCode.FENCED

    def test_missing_rights_end_with_a_clear_line(self, topic: Topic, doors: Doors) -> None:
        def forbidden() -> Any:
            log = connect(configured.KAFKA_GROUP)
            log.poll = lambda **_: refuse(kafka_errors.TopicAuthorizationFailedError)
            return log

        with running(doors.take, open_log=forbidden) as refused:
            wait_until(lambda: refused.ended is not None)

        assert refused.ended == ExitCode.NOT_ALLOWED


def refuse(error: type[Exception]) -> None:
    raise error


def mistake(_: object) -> None:
    raise TypeError("a mistake of ours")


class TestTopicThatIsNotThere:
    def test_is_named_in_one_line_and_read_once_it_is_made(
        self, topic: Topic, doors: Doors, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumer, "UNASSIGNED_SECONDS_MAX", 0.3)
        monkeypatch.setattr(consumer, "METADATA_MS_MAX", 500)
        settings.KAFKA_TOPIC = f"{topic.name}-later"

        with capture_logs() as lines, running(doors.take):
            wait_until(lambda: any(line["event"] == "no partition is ours" for line in lines))
            ensure_topic(topic.servers, settings.KAFKA_TOPIC)
            Topic(topic.servers, settings.KAFKA_TOPIC).send(*orders(1, 2, 3), partition=0)  # the emulator makes it with one when it is asked for
            wait_until(lambda: stored() == 3)

        line = next(line for line in lines if line["event"] == "no partition is ours")
        assert (line["topic"], "does the topic exist" in line["fix"]) == (settings.KAFKA_TOPIC, True)


class TestStopRule:
    def test_a_hundred_bad_messages_in_a_row_end_it_with_78(self, topic: Topic, doors: Doors) -> None:
        topic.send(*(b"garbage %d" % number for number in range(100)), partition=0)

        with running(doors.take) as stopped:
            wait_until(lambda: stopped.ended is not None)

        assert stopped.ended == 78
        assert Quarantined.objects.count() == 100

    def test_what_is_in_quarantine_already_lets_it_start_again(self, topic: Topic, doors: Doors) -> None:
        topic.send(*(b"garbage %d" % number for number in range(100)), partition=0)
        with running(doors.take) as stopped:
            wait_until(lambda: stopped.ended is not None)
        topic.send(*orders(1), partition=0)

        with running(doors.take, open_log=partial(connect, "from-the-beginning")) as again:
            wait_until(lambda: stored() == 1)

        assert again.ended == ExitCode.STOPPED
        assert len(again.consumer.total.bad_before) == 100


class TestBrokerThatLosesItsLog:
    def test_is_read_on_by_a_running_consumer(self, emulator: Emulator, doors: Doors) -> None:
        topic = Topic(emulator.url, "orders")
        emulator.start("orders")
        with running(doors.take):
            topic.send(*orders(*range(100)))
            wait_until(lambda: stored() == 100)
            emulator.kill()
            emulator.start("orders")
            topic.send(*orders(*range(100, 110)), partition=0)  # it may know fewer partitions now

            wait_until(lambda: stored() == 110, seconds=30)

        assert doors.held == []

    def test_is_read_from_its_beginning_by_a_consumer_whose_offset_lies_beyond_the_end(
        self, emulator: Emulator, doors: Doors, settings: Settings
    ) -> None:
        settings.KAFKA_INSTANCE_ID = "slot-1"
        topic = Topic(emulator.url, "orders")
        emulator.start("orders")
        topic.send(*orders(*range(8)))
        log = connect("orders")
        wait_until(lambda: log.poll(timeout_ms=200))
        log.commit({partition: OffsetAndMetadata(5_000, "", -1) for partition in log.assignment()})
        log.close(timeout_ms=500)

        with running(doors.take):
            wait_until(lambda: stored() == 8)

    def test_is_waited_for_while_it_is_down(self, emulator: Emulator, doors: Doors) -> None:
        with running(doors.take):
            emulator.start("orders")
            Topic(emulator.url, "orders").send(*orders(1, 2, 3), partition=0)  # the consumer may have had it made, with one

            wait_until(lambda: stored() == 3, seconds=20)


class TestCommand:
    @contextmanager
    def process(self, environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "manage.py", "consume_binlog", *options]
        with subprocess.Popen(command, cwd=configured.BASE_DIR, env=environment, stdout=subprocess.PIPE, text=True) as started:
            try:
                yield started
            finally:
                started.kill()

    def test_stores_orders_with_their_clearings_and_stops_at_once(self, topic: Topic, environment: dict[str, str]) -> None:
        with self.process(environment) as consumer:
            topic.send(*orders(1, 2))
            wait_until(lambda: Clearing.objects.count() == 2, seconds=20)
            consumer.send_signal(signal.SIGTERM)

            assert consumer.wait(20) == 0

        assert set(Clearing.objects.values_list("state", flat=True)) == {"queued"}

    def test_killed_hard_and_started_again_stores_each_once(self, topic: Topic, environment: dict[str, str]) -> None:
        environment["KAFKA_INSTANCE_ID"] = "slot-1"
        with self.process(environment) as killed:
            topic.send(*orders(*range(500)))
            wait_until(lambda: stored() > 0, seconds=20, pause_seconds=0.001)
            killed.kill()

        with self.process(environment, "--until-idle", "1") as again:
            topic.send(*orders(*range(500, 520)))
            assert again.wait(90) == 0

        assert stored() == Clearing.objects.count() == 520

    def test_exits_with_78_after_too_many_bad_messages(self, topic: Topic, environment: dict[str, str]) -> None:
        topic.send(*(b"garbage" for _ in range(120)), partition=0)

        with self.process(environment) as consumer:
            output, _ = consumer.communicate(timeout=90)

        assert consumer.returncode == 78
        assert "bad messages in a row" in output
