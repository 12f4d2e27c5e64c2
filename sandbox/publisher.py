"""Publishing the sync-order table's changes to Kafka, as Canal would: from a stored position, in
order, at least once.

The position is stored after Kafka has acknowledged, so that a crash in between repeats messages and
never loses one. While Kafka is away it tries again with growing pauses, from the stored position,
and says so once.
"""

import contextlib
import logging
import sqlite3
import threading
import time
from functools import partial

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from sandbox import binlog
from sandbox.config import SandboxConfig
from sandbox.storage import Change, Storage, changes_after

log = logging.getLogger(__name__)
BATCH_STATEMENTS = 200
IDLE_SECONDS_MAX = 1.0  # a wake-up comes with every commit; this is for what was committed before the start
PAUSE_SECONDS_MIN = 0.2
PAUSE_SECONDS_MAX = 3.0
ACK_SECONDS_MAX = 5.0
STOP_SECONDS_MAX = 0.4


class Publisher:
    """A thread of its own. `wake()` is called after each commit; `stop()` returns within
    `STOP_SECONDS_MAX`.
    """

    def __init__(self, storage: Storage, config: SandboxConfig) -> None:
        self._storage = storage
        self._config = config
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._producer: KafkaProducer | None = None
        self._partitions = config.kafka_partitions
        self._batches = 0
        self._failures = 0

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        """What is unpublished by now is published by the next start."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(STOP_SECONDS_MAX)

    def publish_pending(self, reader: sqlite3.Connection) -> int:
        """Publishes the next statements and stores the position; returns how many. Raises
        `KafkaError` with nothing stored.
        """
        changes = changes_after(reader, self._storage.published_through(), BATCH_STATEMENTS)
        if changes:
            self._send(changes)
            with self._storage.transaction():
                self._storage.set_published_through(changes[-1].position)
        return len(changes)

    def _run(self) -> None:
        with self._storage.reader() as reader:
            while not self._stopping.is_set():
                self._wake.clear()
                try:
                    published = self.publish_pending(reader)
                except KafkaError as error:
                    self._back_off(error)
                    continue
                self._recovered()
                if not published:
                    self._wake.wait(IDLE_SECONDS_MAX)
        self._drop_producer()

    def _send(self, changes: list[Change]) -> None:
        """Sends and waits for every acknowledgement."""
        producer = self._producer or self._connect()
        self._batches += 1
        sent_at_ms = time.time_ns() // 1_000_000
        shown = partial(binlog.messages, batch_id=self._batches, sent_at_ms=sent_at_ms, partitions=self._partitions, proof=self._config.proof)
        futures = [
            producer.send(self._config.kafka_topic, value=message.value, partition=message.partition)
            for change in changes
            for message in shown(change)
        ]
        for future in futures:
            future.get(timeout=ACK_SECONDS_MAX)

    def _connect(self) -> KafkaProducer:
        self._create_topic()
        self._producer = KafkaProducer(
            bootstrap_servers=self._config.kafka_bootstrap.split(","),
            client_id="sandbox-publisher",
            acks="all",
            enable_idempotence=False,  # the development server has no producer ids; one batch in flight keeps the order
            max_in_flight_requests_per_connection=1,
            max_block_ms=2_000,
            request_timeout_ms=4_000,
            delivery_timeout_ms=4_500,
            reconnect_backoff_max_ms=1_000,
        )
        self._partitions = len(self._producer.partitions_for(self._config.kafka_topic)) or self._config.kafka_partitions
        return self._producer

    def _create_topic(self) -> None:
        """Sends to a topic that doesn't exist fail at first."""
        servers = self._config.kafka_bootstrap.split(",")
        admin = KafkaAdminClient(bootstrap_servers=servers, bootstrap_timeout_ms=2_000, request_timeout_ms=4_000, reconnect_backoff_max_ms=500)
        try:
            admin.create_topics([NewTopic(self._config.kafka_topic, self._config.kafka_partitions, 1)])
        except TopicAlreadyExistsError:
            return
        finally:
            admin.close()

    def _back_off(self, error: KafkaError) -> None:
        if self._stopping.is_set():
            return
        if not self._failures:
            log.warning("Kafka at %s doesn't take changes (%s): trying again until it does", self._config.kafka_bootstrap, error)
        self._drop_producer()
        self._stopping.wait(min(PAUSE_SECONDS_MAX, PAUSE_SECONDS_MIN * 2**self._failures))
        self._failures = min(self._failures + 1, 10)

    def _recovered(self) -> None:
        if self._failures:
            log.warning("Kafka at %s takes changes again", self._config.kafka_bootstrap)
        self._failures = 0

    def _drop_producer(self) -> None:
        """Forgets whatever the producer still had in its buffers: it is sent again from the stored
        position, in order.
        """
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError):
                producer.close(timeout=0)
