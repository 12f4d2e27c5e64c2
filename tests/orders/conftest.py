import gc
import itertools
import os
import subprocess
import uuid
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.conf import settings as configured
from kafka import KafkaProducer
from pytest_django import Settings

from stack.kafka import Kafka, ensure_topic
from stack.ports import find_free
from tests.orders.fakes import FakeClearings
from tests.support.waiting import wait_until


@dataclass
class Topic:
    """A topic of the test's own, with a producer."""

    servers: str
    name: str

    def send(self, *messages: bytes | None, partition: int | None = None) -> None:
        """Sends them one after another, round the partitions unless one is named; they are stored
        when this returns.
        """
        partitions = itertools.cycle(range(4)) if partition is None else itertools.repeat(partition)
        producer = KafkaProducer(bootstrap_servers=self.servers, metrics_enabled=False)
        try:
            for message, number in zip(messages, partitions, strict=False):
                producer.send(self.name, message, key=b"" if message is None else None, partition=number)
            producer.flush()
        finally:
            producer.close()


@pytest.fixture
def topic(settings: Settings) -> Topic:
    """Intake reads this topic, in a group of its own."""
    settings.KAFKA_TOPIC = settings.KAFKA_GROUP = f"orders-{uuid.uuid4().hex[:12]}"
    ensure_topic(configured.KAFKA_BOOTSTRAP_SERVERS[0], settings.KAFKA_TOPIC)
    return Topic(configured.KAFKA_BOOTSTRAP_SERVERS[0], settings.KAFKA_TOPIC)


@dataclass
class Emulator:
    """A Kafka emulator that may be killed."""

    kafka: Kafka
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.kafka.url

    def start(self, *topics: str) -> None:
        self.process = subprocess.Popen(self.kafka.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self.kafka.answers)
        for name in topics:
            ensure_topic(self.url, name)

    def kill(self) -> None:
        """SIGKILL: what it had acknowledged may be gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def emulator(tmp_path: Path, settings: Settings) -> Iterator[Emulator]:
    """Intake reads from this emulator."""
    running = Emulator(Kafka(tmp_path / "kafka", find_free(set())))
    running.kafka.prepare()
    settings.KAFKA_BOOTSTRAP_SERVERS = [running.url]
    settings.KAFKA_TOPIC = settings.KAFKA_GROUP = "orders"
    yield running
    running.kill()
    with warnings.catch_warnings():  # kafka-python leaves a socket open for each connection that was refused
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """What a process of the service needs to work on the test's database and topic."""
    from django.db import connection

    database = connection.settings_dict
    host, port, user = database["HOST"] or "127.0.0.1", database["PORT"], database["USER"]
    password = f":{database['PASSWORD']}" if database["PASSWORD"] else ""
    return {
        **os.environ,
        "DATABASE_URL": f"postgresql://{user}{password}@{host}:{port}/{database['NAME']}",
        "KAFKA_BOOTSTRAP_SERVERS": ",".join(settings.KAFKA_BOOTSTRAP_SERVERS),
        "KAFKA_TOPIC": settings.KAFKA_TOPIC,
        "KAFKA_GROUP": settings.KAFKA_GROUP,
        "INTAKE_SINCE": "2023-11-14T22:13:20+00:00",
        "METRICS_DIR": "",
        "METRICS_PORT": "0",
    }


@pytest.fixture
def clearings() -> FakeClearings:
    return FakeClearings()
