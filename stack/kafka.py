"""The log: a server from the wheel `noida-db` that speaks Kafka's protocol.

An emulator for development: killed hard it loses messages that it had acknowledged, and it keeps a
dead dynamic member's partitions. The service survives that (design, rule 1 and section 10); nothing
else may trust it. The binary is started itself, because killing its Python wrapper would leave it
running. It prints a harmless warning about a weak GLIBC symbol.
"""

import importlib.util
import os
import signal
import socket
import stat
import struct
import warnings
from contextlib import suppress
from pathlib import Path

from stack.errors import StackError
from stack.ports import LOOPBACK

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python warns of its own import
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic
    from kafka.errors import TopicAlreadyExistsError

PARTITIONS = 4
CORRELATION_ID = struct.pack(">i", 7)
# length, then: key 18 (ApiVersions), version 0, correlation id, no client id
API_VERSIONS_REQUEST = struct.pack(">ihh", 10, 18, 0) + CORRELATION_ID + struct.pack(">h", -1)


class Kafka:
    name = "kafka"
    variable = "KAFKA_BOOTSTRAP_SERVERS"
    stop_signal = signal.SIGTERM
    user = None
    binary = "noida-db"

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    @property
    def url(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def marker(self) -> str:
        return str(self.folder)

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        return [str(_binary()), "start", "--only", "kafka", "--kafka-port", str(self.port), "--host", LOOPBACK, "--data-dir", self.marker]

    def answers(self) -> bool:
        """An ApiVersions request, by which every client begins. By hand: kafka-python's clients try
        for long, and leak when they fail.
        """
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                connection.sendall(API_VERSIONS_REQUEST)
                return connection.recv(8)[4:] == CORRELATION_ID
        except OSError:
            return False

    def settle(self) -> None:
        """Makes the topic that the counter's sync orders come by."""
        ensure_topic(self.url, os.environ.get("KAFKA_TOPIC") or "counter.sync_order")

    def clean_up(self) -> None:
        """Nothing lies outside its folder."""


def ensure_topic(servers: str, topic: str, partitions: int = PARTITIONS) -> None:
    """Makes a topic if there is none of that name. Raises KafkaError."""
    admin = KafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=5_000)
    try:
        if topic not in admin.list_topics():
            with suppress(TopicAlreadyExistsError):  # somebody made it in between
                admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        admin.close()


def _binary() -> Path:
    found = importlib.util.find_spec("noida_db")
    binary = Path(found.origin).parent / "noida-db" if found and found.origin else Path("noida-db")
    if not binary.exists():
        raise StackError("the Kafka emulator isn't installed: run `make setup`, or name a server in KAFKA_BOOTSTRAP_SERVERS")
    if not os.access(binary, os.X_OK):
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return binary
