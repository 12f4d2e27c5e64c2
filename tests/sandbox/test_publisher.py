"""The publisher against a Kafka-speaking server: every change at least once, in each user's order,
whatever is killed.
"""

import json
import select
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from kafka import KafkaConsumer, TopicPartition

from sandbox.app import Parts
from sandbox.config import SandboxConfig
from sandbox.placing import OrderRequest
from sandbox.publisher import Publisher
from tests.sandbox.steps import Users, adjust, order_of
from tests.support.sandbox import SandboxServer, running_sandbox
from tests.support.waiting import wait_until

KAFKA = ",".join(settings.KAFKA_BOOTSTRAP_SERVERS)
KEYS = {"counter": "c", "fund": "f", "trading": "t"}


class Topic:
    """Everything a topic holds, read from its beginning as it comes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[dict[str, Any]] = []
        self.keys: set[bytes | None] = set()
        self._consumer = KafkaConsumer(bootstrap_servers=KAFKA, enable_auto_commit=False, group_id=None)

    def read(self) -> list[dict[str, Any]]:
        """All messages so far; those of a partition in its order."""
        if not self._consumer.assignment():
            partitions = self._consumer.partitions_for_topic(self.name)
            if not partitions:
                return self.messages
            self._consumer.assign([TopicPartition(self.name, partition) for partition in sorted(partitions)])
            self._consumer.seek_to_beginning()
        for records in self._consumer.poll(50).values():
            self.messages += [json.loads(record.value) for record in records]
            self.keys |= {record.key for record in records}
        return self.messages

    def rows(self, kind: str = "INSERT") -> list[dict[str, Any]]:
        return [row for message in self.read() if message["type"] == kind for row in message["data"]]

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def topic() -> Iterator[Topic]:
    topic = Topic(f"counter.sync_order.{uuid.uuid4().hex[:8]}")
    yield topic
    topic.close()


@pytest.fixture
def publishing_sandbox(tmp_path: Path, topic: Topic) -> Iterator[SandboxServer]:
    with running_sandbox(tmp_path, KAFKA, topic=topic.name) as server:
        yield server


class TestPublishing:
    def test_every_row_comes_in_its_users_order_and_without_a_key(self, publishing_sandbox: SandboxServer, topic: Topic) -> None:
        users = [Users.fresh() for _ in range(5)]

        placed = [order_of(publishing_sandbox, user_id) for _ in range(8) for user_id in users]

        wait_until(lambda: len(topic.rows()) >= len(placed))
        assert topic.keys == {None}
        for user_id in users:
            expected = [order["order_id"] for order in placed if order["user_id"] == user_id]
            assert [row["order_id"] for row in topic.rows() if row["user_id"] == user_id] == expected

    def test_the_rows_of_one_statement_share_a_message(self, publishing_sandbox: SandboxServer, topic: Topic) -> None:
        orders = [{"direction": "OPEN", "asset": "BTC", "quantity": "0.01"}] * 5

        publishing_sandbox.post("/counter/v1/orders/batch", {"user_id": Users.fresh(), "orders": orders})

        wait_until(topic.rows)
        assert [len(message["data"]) for message in topic.read() if message["type"] == "INSERT"] == [5]

    def test_a_new_table_and_an_updated_row_are_there_too(self, publishing_sandbox: SandboxServer, topic: Topic) -> None:
        user_id = Users.fresh()
        placed = [order_of(publishing_sandbox, user_id) for _ in range(10)]

        adjust(publishing_sandbox, placed[9])

        wait_until(lambda: topic.rows("UPDATE"))
        (update,) = [message for message in topic.read() if message["type"] == "UPDATE"]
        assert (update["data"][0]["order_id"], update["data"][0]["status"]) == (placed[9]["order_id"], "ACTIVE")
        assert update["old"] == [{"status": "PLACED"}]
        assert [message["sql"][:12] for message in topic.read() if message["isDdl"]] == ["CREATE TABLE"]

    def test_a_row_that_is_not_to_be_streamed_never_comes(self, publishing_sandbox: SandboxServer, topic: Topic) -> None:
        publishing_sandbox.set_fault(kind="not_streamed", counterparty="counter", operation="place", count=1)
        user_id = Users.fresh()
        _, following = (order_of(publishing_sandbox, user_id)["order_id"] for _ in range(2))

        wait_until(topic.rows)

        assert [row["order_id"] for row in topic.rows()] == [following]


class TestAtLeastOnce:
    @pytest.fixture
    def parts(self, tmp_path: Path, topic: Topic) -> Iterator[Parts]:
        parts = Parts(SandboxConfig(data=tmp_path, keys=KEYS, kafka_bootstrap=KAFKA, kafka_topic=topic.name))
        yield parts
        parts.storage.close()

    def test_a_crash_between_acknowledgement_and_position_repeats(self, parts: Parts, topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
        placed = parts.desk.place("1001", [OrderRequest("OPEN", "BTC", "0.01")] * 3, parts.now_ms())
        with monkeypatch.context() as patch, parts.storage.reader() as reader:
            patch.setattr(parts.storage, "set_published_through", crash)
            with pytest.raises(ProcessDied):
                Publisher(parts.storage, parts.config).publish_pending(reader)

        with parts.storage.reader() as reader:
            Publisher(parts.storage, parts.config).publish_pending(reader)

        wait_until(lambda: len(topic.rows()) == 6)
        assert Counter(row["order_id"] for row in topic.rows()) == {order["order_id"]: 2 for order in placed}

    def test_a_killed_sandbox_loses_no_row(self, publishing_sandbox: SandboxServer, topic: Topic) -> None:
        placed = [order_of(publishing_sandbox, Users.fresh())["order_id"] for _ in range(30)]
        for _ in range(3):
            publishing_sandbox.kill()
            publishing_sandbox.start()
            placed += [order_of(publishing_sandbox, Users.fresh())["order_id"] for _ in range(30)]

        wait_until(lambda: {row["order_id"] for row in topic.rows()} >= set(placed))

    def test_what_was_published_is_not_published_again_by_a_clean_restart(self, publishing_sandbox: SandboxServer, topic: Topic) -> None:
        first = order_of(publishing_sandbox, Users.fresh())
        wait_until(topic.rows)
        publishing_sandbox.stop()
        publishing_sandbox.start()

        second = order_of(publishing_sandbox, Users.fresh())

        wait_until(lambda: len(topic.rows()) >= 2)
        assert {row["order_id"] for row in topic.rows()} == {first["order_id"], second["order_id"]}
        assert len(topic.rows()) == 2


class TestKafkaAway:
    def test_orders_are_taken_meanwhile_and_published_afterwards(self, tmp_path: Path, topic: Topic) -> None:
        port = free_port()
        with running_sandbox(tmp_path, f"127.0.0.1:{port}", topic=topic.name) as server:
            placed = [order_of(server, Users.fresh())["order_id"] for _ in range(5)]
            wait_until(lambda: "trying again until it does" in server.log.read_text())

            with forwarding(port, settings.KAFKA_BOOTSTRAP_SERVERS[0]):
                wait_until(lambda: {row["order_id"] for row in topic.rows()} >= set(placed), seconds=20)
                wait_until(lambda: "takes changes again" in server.log.read_text())

        assert server.log.read_text().count("trying again until it does") == 1


class ProcessDied(BaseException):
    """Stands for a SIGKILL at this very line: nothing may catch it."""


def crash(_: int) -> None:
    raise ProcessDied


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def forwarding(port: int, target: str) -> Iterator[None]:
    """Lets connections to `port` through to `target`: a server that comes back under its old
    address.
    """
    host, _, target_port = target.rpartition(":")
    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=forward, args=(listener, (host, int(target_port)), stopping))
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()


def forward(listener: socket.socket, target: tuple[str, int], stopping: threading.Event) -> None:
    pairs: dict[socket.socket, socket.socket] = {}
    while not stopping.is_set():
        for ready in select.select([listener, *pairs], [], [], 0.05)[0]:
            if ready is listener:
                near, far = listener.accept()[0], socket.create_connection(target)
                pairs.update({near: far, far: near})
            elif ready in pairs:
                pass_on(ready, pairs)
    for end in pairs:
        end.close()


def pass_on(ready: socket.socket, pairs: dict[socket.socket, socket.socket]) -> None:
    other = pairs[ready]
    try:
        data = ready.recv(65536)
        other.sendall(data)
    except OSError:
        data = b""
    if not data:
        for end in (ready, other):
            del pairs[end]
            end.close()
