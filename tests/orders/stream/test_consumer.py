"""The consumer, in a thread and as the command: ingests each message once, waits for its topic,
stops after too many bad messages.
"""

import signal
import statistics
import time
from collections.abc import Sequence
from functools import partial

import pytest
from pytest_django import Settings
from structlog.testing import capture_logs

from clearing.models import Clearing
from orders.intake.classify import Item
from orders.intake.result import IngestResult
from orders.models import Quarantined
from orders.stream import consumer
from orders.stream.consumer import ExitCode, connect
from stack.kafka import ensure_topic
from tests.orders.conftest import Topic
from tests.orders.consumers import orders, process, running, stored
from tests.orders.fakes import FakeClearings
from tests.orders.messages import inserts, message, row
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]


class TestReading:
    def test_every_message_is_ingested_once(self, topic: Topic, clearings: FakeClearings) -> None:
        with running(clearings.ingest):
            topic.send(*orders(*range(50)), None, b"garbage")
            wait_until(lambda: stored() == 50 and Quarantined.objects.count() == 1)

        assert len(clearings.opened) == len(clearings.published) == 50

    def test_goes_on_where_it_ended(self, topic: Topic, clearings: FakeClearings) -> None:
        topic.send(*orders(*range(10)))
        with running(clearings.ingest):
            wait_until(lambda: stored() == 10)
        topic.send(*orders(10))

        with running(clearings.ingest) as again:
            wait_until(lambda: stored() == 11)

        assert again.consumer.total.known == 0

    def test_of_another_group_from_the_beginning_changes_nothing(self, topic: Topic, clearings: FakeClearings) -> None:
        topic.send(*orders(*range(10)))
        with running(clearings.ingest):
            wait_until(lambda: stored() == 10)

        with running(clearings.ingest, open_log=partial(connect, "look-again"), idle_seconds=0.5) as again:
            wait_until(lambda: again.ended is not None)

        assert (again.ended, again.consumer.total.known, again.consumer.total.accepted) == (ExitCode.STOPPED, 10, 0)

    def test_takes_a_few_milliseconds(self, topic: Topic, clearings: FakeClearings) -> None:
        came_after_ms: list[float] = []
        sent_at = 0.0

        def measured(items: Sequence[Item]) -> IngestResult:
            result = clearings.ingest(items)
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


class TestTopicThatIsNotThere:
    def test_is_named_in_one_line_and_read_once_it_is_made(
        self, topic: Topic, clearings: FakeClearings, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumer, "UNASSIGNED_SECONDS_MAX", 0.3)
        monkeypatch.setattr(consumer, "METADATA_MS_MAX", 500)
        settings.KAFKA_TOPIC = f"{topic.name}-later"

        with capture_logs() as lines, running(clearings.ingest):
            wait_until(lambda: any(line["event"] == "no partitions assigned" for line in lines))
            ensure_topic(topic.servers, settings.KAFKA_TOPIC)
            Topic(topic.servers, settings.KAFKA_TOPIC).send(*orders(1, 2, 3), partition=0)  # the emulator makes it with one when it is asked for
            wait_until(lambda: stored() == 3)

        line = next(line for line in lines if line["event"] == "no partitions assigned")
        assert (line["topic"], "does the topic exist" in line["fix"]) == (settings.KAFKA_TOPIC, True)


class TestStopRule:
    def test_a_hundred_bad_messages_in_a_row_end_it_with_78(self, topic: Topic, clearings: FakeClearings) -> None:
        topic.send(*(b"garbage %d" % number for number in range(100)), partition=0)

        with running(clearings.ingest) as stopped:
            wait_until(lambda: stopped.ended is not None)

        assert stopped.ended == 78
        assert Quarantined.objects.count() == 100

    def test_what_is_in_quarantine_already_lets_it_start_again(self, topic: Topic, clearings: FakeClearings) -> None:
        topic.send(*(b"garbage %d" % number for number in range(100)), partition=0)
        with running(clearings.ingest) as stopped:
            wait_until(lambda: stopped.ended is not None)
        topic.send(*orders(1), partition=0)

        with running(clearings.ingest, open_log=partial(connect, "from-the-beginning")) as again:
            wait_until(lambda: stored() == 1)

        assert again.ended == ExitCode.STOPPED
        assert len(again.consumer.total.bad_before) == 100

    def test_a_message_that_contradicts_a_hundred_orders_ends_it_once(self, topic: Topic, clearings: FakeClearings) -> None:
        ids = [f"O{number}" for number in range(100)]
        clearings.ingest(inserts(ids))
        topic.send(message(*(row(order_id) for order_id in ids), kind="DELETE"), partition=0)

        with running(clearings.ingest) as stopped:
            wait_until(lambda: stopped.ended is not None)
        with running(clearings.ingest, open_log=partial(connect, "from-the-beginning"), idle_seconds=0.5) as again:
            wait_until(lambda: again.ended is not None)

        assert (stopped.ended, len(clearings.held), again.ended) == (78, 100, ExitCode.STOPPED)


class TestCommand:
    def test_stores_orders_with_their_clearings_and_stops_at_once(self, topic: Topic, environment: dict[str, str]) -> None:
        with process(environment) as consumer:
            topic.send(*orders(1, 2))
            wait_until(lambda: Clearing.objects.count() == 2, seconds=60)
            consumer.send_signal(signal.SIGTERM)

            assert consumer.wait(20) == 0

        assert set(Clearing.objects.values_list("state", flat=True)) == {"queued"}

    def test_killed_hard_and_started_again_stores_each_once(self, topic: Topic, environment: dict[str, str]) -> None:
        environment["KAFKA_INSTANCE_ID"] = "slot-1"
        with process(environment) as killed:
            topic.send(*orders(*range(500)))
            wait_until(lambda: stored() > 0, seconds=20, pause_seconds=0.001)
            killed.kill()

        with process(environment, "--until-idle", "1") as again:
            topic.send(*orders(*range(500, 520)))
            assert again.wait(90) == 0

        assert stored() == Clearing.objects.count() == 520

    def test_exits_with_78_after_too_many_bad_messages(self, topic: Topic, environment: dict[str, str]) -> None:
        topic.send(*(b"garbage" for _ in range(120)), partition=0)

        with process(environment) as consumer:
            output, _ = consumer.communicate(timeout=90)

        assert consumer.returncode == 78
        assert "bad messages in a row" in output
