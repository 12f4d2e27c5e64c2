"""The consumer against a real Apache Kafka: what the emulator of the embedded stack can't show.
`make test-kafka` runs these.
"""

import gc
import itertools
import subprocess
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest
from django.conf import settings as configured
from django.db import connection
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.structs import OffsetAndMetadata
from pytest_django import Settings
from structlog.testing import capture_logs

from base.kafka import KafkaSecurity
from orders.intake.classify import Item
from orders.intake.result import IngestResult
from orders.stream.consumer import BinlogConsumer, ExitCode, connect
from orders.stream.topic_reader import LogNotReadable, open_reader
from tests.kafka.broker import PASSWORD, USER, Broker
from tests.orders.conftest import Topic, environment  # noqa: F401 - a fixture
from tests.orders.consumers import orders, process, stored
from tests.orders.fakes import FakeClearings
from tests.orders.messages import RULES
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]
AT_ONCE_SECONDS = 5.0  # far below a session: nobody waited for one to end
MECHANISMS = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@pytest.fixture
def topic(broker: Broker, settings: Settings) -> Topic:
    """Intake reads this topic of the real Kafka, as production does: cooperative, without a
    pause.
    """
    settings.KAFKA_BOOTSTRAP_SERVERS = [broker.address()]
    settings.KAFKA_TOPIC = settings.KAFKA_GROUP = f"orders-{uuid.uuid4().hex[:12]}"
    settings.KAFKA_ASSIGNMENT, settings.KAFKA_IDLE_SLEEP_MS, settings.KAFKA_INSTANCE_ID = "cooperative-sticky", 0, ""
    create(broker, settings.KAFKA_TOPIC)
    return Topic(broker.address(), settings.KAFKA_TOPIC)


@pytest.fixture
def real_environment(topic: Topic, environment: dict[str, str]) -> dict[str, str]:  # noqa: F811
    """Of a process of the service."""
    return {**environment, "KAFKA_ASSIGNMENT": "cooperative-sticky", "KAFKA_IDLE_SLEEP_MS": "0"}


def create(broker: Broker, name: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.address())
    try:
        admin.create_topics([NewTopic(name, 4, 1)])
    finally:
        admin.close()


class Member:
    """A consumer in a thread, which notes the partitions that its rows came from."""

    def __init__(self) -> None:
        self.clearings = FakeClearings()
        self.partitions: set[int] = set()
        self.stopping = threading.Event()
        self.ended: ExitCode | None = None
        self.log: KafkaConsumer | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _open(self, listener: ConsumerRebalanceListener) -> KafkaConsumer:
        self.log = connect(configured.KAFKA_GROUP, listener)
        return self.log

    def _take(self, items: Sequence[Item]) -> IngestResult:
        self.partitions |= {item.origin.partition for item in items}  # type: ignore[union-attr] # all are arrivals
        return self.clearings.ingest(items)

    def _run(self) -> None:
        try:
            self.ended = BinlogConsumer(self._open, self._take, lambda: RULES, self.stopping).run()
        finally:
            connection.close()

    @property
    def assigned(self) -> set[int]:
        return set() if self.log is None else {place.partition for place in self.log.assignment()}

    def stop(self) -> None:
        self.stopping.set()
        self._thread.join(15)
        assert not self._thread.is_alive()


@contextmanager
def member() -> Iterator[Member]:
    started = Member()
    try:
        yield started
    finally:
        started.stop()


class TestGroup:
    def test_two_members_share_the_partitions_and_who_leaves_leaves_them_to_the_other(self, topic: Topic) -> None:
        with member() as first:
            wait_until(lambda: first.assigned == {0, 1, 2, 3}, seconds=30)
            with member() as second:
                wait_until(lambda: (len(first.assigned), len(second.assigned)) == (2, 2), seconds=30)
                topic.send(*orders(*range(40)))
                wait_until(lambda: stored() == 40)
                assert first.partitions | second.partitions == {0, 1, 2, 3}
                assert first.partitions.isdisjoint(second.partitions)
            left_at = time.monotonic()
            wait_until(lambda: first.assigned == {0, 1, 2, 3}, seconds=30)

            assert time.monotonic() - left_at < AT_ONCE_SECONDS
            topic.send(*orders(*range(40, 80)))
            wait_until(lambda: stored() == 80)

    def test_what_is_kept_goes_on_while_the_group_is_arranged_anew(self, topic: Topic) -> None:
        with member() as first:
            wait_until(lambda: first.assigned == {0, 1, 2, 3}, seconds=30)
            with member() as second:
                for number in range(0, 200, 4):
                    topic.send(*orders(*range(number, number + 4)))
                wait_until(lambda: stored() == 200, seconds=30)
                wait_until(lambda: len(second.assigned) == 2, seconds=30)

        assert not set(first.clearings.held) | set(second.clearings.held)

    def test_who_dies_leaves_its_partitions_to_the_other_after_its_session(self, topic: Topic, real_environment: dict[str, str]) -> None:
        with member() as survivor:
            wait_until(lambda: survivor.assigned == {0, 1, 2, 3}, seconds=30)
            with process(real_environment) as victim:
                wait_until(lambda: len(survivor.assigned) == 2, seconds=40)
                victim.kill()
                topic.send(*orders(*range(40)))
                wait_until(lambda: stored() == 40, seconds=40)

            assert survivor.assigned == {0, 1, 2, 3}

    def test_a_static_member_that_comes_back_has_its_partitions_at_once(self, topic: Topic, real_environment: dict[str, str]) -> None:
        real_environment["KAFKA_INSTANCE_ID"] = "slot-1"
        with process(real_environment) as killed:
            topic.send(*orders(*range(20)))
            wait_until(lambda: stored() == 20, seconds=40)
            killed.kill()

        with process(real_environment) as again:
            assert again.stdout is not None
            assert "consuming" in again.stdout.readline()
            listening_at = time.monotonic()
            topic.send(*orders(*range(20, 40)))
            wait_until(lambda: stored() == 40, seconds=40)

        assert time.monotonic() - listening_at < AT_ONCE_SECONDS

    def test_a_member_with_the_same_instance_id_ends_the_first_with_75(
        self, topic: Topic, real_environment: dict[str, str], settings: Settings
    ) -> None:
        """The second member doesn't hold the slot's lock, as one that works on another database: a
        process on the same database would wait for its slot (base/slot.py).

        The first one doesn't end at once: kafka-python reports it at the first commit afterwards.
        Both read until an order comes, which is harmless.
        """
        settings.KAFKA_INSTANCE_ID = "slot-1"
        real_environment["KAFKA_INSTANCE_ID"] = "slot-1"
        numbers = itertools.count()

        def ended_by_one_more(process: "subprocess.Popen[str]") -> bool:
            topic.send(*orders(next(numbers)))
            return process.poll() is not None

        with process(real_environment) as first:
            topic.send(*orders(next(numbers)))
            wait_until(lambda: stored() == 1, seconds=40)
            with member() as second:
                wait_until(lambda: ended_by_one_more(first), seconds=60, pause_seconds=0.5)
                sent = next(numbers)
                wait_until(lambda: stored() == sent, seconds=20)
                assert second.assigned == {0, 1, 2, 3}
            assert first.stdout is not None
            output = first.stdout.read()

        assert first.returncode == ExitCode.FENCED
        assert "KAFKA_INSTANCE_ID" in output

    def test_a_second_process_of_the_same_slot_waits_and_takes_over(self, topic: Topic, real_environment: dict[str, str]) -> None:
        real_environment["KAFKA_INSTANCE_ID"] = "slot-1"
        with process(real_environment) as first:
            topic.send(*orders(0))
            wait_until(lambda: stored() == 1, seconds=40)
            with process(real_environment) as second:
                assert second.stdout is not None
                assert "waiting" in next(line for line in second.stdout if "slot" in line)
                topic.send(*orders(1))
                wait_until(lambda: stored() == 2, seconds=20)
                assert (first.poll(), second.poll()) == (None, None)

                first.kill()
                topic.send(*orders(2))
                wait_until(lambda: stored() == 3, seconds=20)


class TestLog:
    def test_an_offset_beyond_its_end_goes_on_from_its_beginning(self, topic: Topic) -> None:
        topic.send(*orders(*range(8)))
        commit(topic, 5_000)

        with member():
            wait_until(lambda: stored() == 8, seconds=30)

    def test_an_offset_before_its_beginning_goes_on_from_there(self, topic: Topic) -> None:
        topic.send(*orders(*range(8)))
        commit(topic, 0)
        admin = KafkaAdminClient(bootstrap_servers=topic.servers)
        try:
            admin.delete_records({TopicPartition(topic.name, number): 1 for number in range(4)})
        finally:
            admin.close()

        with member():
            wait_until(lambda: stored() == 4, seconds=30)

    def test_that_appears_later_is_read_from_its_beginning(self, broker: Broker, topic: Topic, settings: Settings) -> None:
        settings.KAFKA_TOPIC = f"later-{uuid.uuid4().hex[:12]}"
        with member():
            create(broker, settings.KAFKA_TOPIC)
            Topic(topic.servers, settings.KAFKA_TOPIC).send(*orders(*range(8)))

            wait_until(lambda: stored() == 8, seconds=40)


class TestRestart:
    @pytest.fixture(autouse=True)
    def collected(self, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
        """kafka-python leaves a socket open for each refused connection, and logs the error with
        its traceback, which keeps the socket alive as long as the record: both are collected here.
        """
        yield
        caplog.get_records("call").clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()

    def test_of_the_broker_loses_and_doubles_nothing(self, broker: Broker, topic: Topic) -> None:
        with member() as consumer:
            topic.send(*orders(*range(40)))
            wait_until(lambda: stored() == 40, seconds=30)
            broker.kill()
            broker.start()
            topic.send(*orders(*range(40, 80)))

            wait_until(lambda: stored() == 80, seconds=60)

        assert (len(consumer.clearings.opened), consumer.clearings.held) == (80, [])


class TestCredentials:
    @pytest.mark.parametrize("mechanism", MECHANISMS)
    def test_that_are_right_are_served(self, broker: Broker, topic: Topic, settings: Settings, mechanism: str) -> None:
        topic.send(*orders(*range(8)))
        settings.KAFKA_BOOTSTRAP_SERVERS = [broker.address("sasl")]
        settings.KAFKA_SECURITY = KafkaSecurity(protocol="SASL_PLAINTEXT", mechanism=mechanism, username=USER, password=PASSWORD)

        with member():
            wait_until(lambda: stored() == 8, seconds=30)

    @pytest.mark.parametrize("mechanism", MECHANISMS)
    def test_that_are_wrong_end_with_77_and_one_clear_line(self, broker: Broker, topic: Topic, settings: Settings, mechanism: str) -> None:
        settings.KAFKA_BOOTSTRAP_SERVERS = [broker.address("sasl")]
        settings.KAFKA_SECURITY = KafkaSecurity(protocol="SASL_PLAINTEXT", mechanism=mechanism, username=USER, password="wrong")

        with capture_logs() as lines:
            ended = BinlogConsumer(partial(connect, "group"), lambda _: IngestResult(), lambda: RULES, threading.Event()).run()

        assert ended == ExitCode.NOT_ALLOWED
        assert [(line["alarm"], "KAFKA_SASL_PASSWORD" in line["fix"]) for line in lines] == [("intake_stopped", True)]
        with pytest.raises(LogNotReadable, match="KAFKA_SASL_PASSWORD"), open_reader(settings.KAFKA_BOOTSTRAP_SERVERS, topic.name):
            pass

    def test_over_tls_are_served(self, broker: Broker, topic: Topic, settings: Settings) -> None:
        topic.send(*orders(*range(8)))
        settings.KAFKA_BOOTSTRAP_SERVERS = [broker.address("tls")]
        settings.KAFKA_SECURITY = KafkaSecurity(
            protocol="SASL_SSL", mechanism="SCRAM-SHA-512", username=USER, password=PASSWORD, cafile=str(broker.certificate)
        )

        with member():
            wait_until(lambda: stored() == 8, seconds=30)
        with open_reader(settings.KAFKA_BOOTSTRAP_SERVERS, topic.name) as reader:
            assert sum(span.messages for span in reader.whole()) == 8

    def test_that_are_missing_are_advised(self, broker: Broker, topic: Topic, settings: Settings) -> None:
        settings.KAFKA_BOOTSTRAP_SERVERS = [broker.address("sasl")]
        stopping = threading.Event()

        with capture_logs() as lines:
            thread = threading.Thread(target=BinlogConsumer(partial(connect, "group"), lambda _: IngestResult(), lambda: RULES, stopping).run)
            thread.start()
            wait_until(lambda: any(line["event"] == "Kafka unavailable, reconnecting" for line in lines))
            stopping.set()
            thread.join()

        assert "KAFKA_SECURITY_PROTOCOL" in next(line for line in lines if line["event"] == "Kafka unavailable, reconnecting")["fix"]


def commit(topic: Topic, offset: int) -> None:
    """As the group's position in every partition."""
    log = KafkaConsumer(bootstrap_servers=topic.servers, group_id=topic.name, enable_auto_commit=False)
    try:
        places = [TopicPartition(topic.name, number) for number in range(4)]
        log.assign(places)
        log.commit({place: OffsetAndMetadata(offset, "", -1) for place in places})
    finally:
        log.close(autocommit=False)
