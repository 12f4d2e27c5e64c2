"""The log: a server from the wheel `noida-db` that speaks Kafka's protocol.

An emulator for development: killed hard it loses messages that it had acknowledged, and it keeps a dead dynamic member's partitions.
The service survives that (design, rule 1 and section 10); nothing else may trust it. The binary is started itself, because killing its
Python wrapper would leave it running. It prints a harmless warning about a weak GLIBC symbol.
"""

import importlib.util
import os
import signal
import stat
import warnings
from pathlib import Path

from stack.errors import StackError
from stack.ports import LOOPBACK, accepts

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python warns of its own import
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic
    from kafka.errors import KafkaError

PARTITIONS = 4


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
        """A list of topics, for which the client first agrees with the server on the versions of the protocol."""
        try:
            self._topics()
        except (KafkaError, OSError):
            return False
        return True

    def settle(self) -> None:
        """Makes the topic that the counter's sync orders come by."""
        topic = os.environ.get("KAFKA_TOPIC") or "counter.sync_order"
        if topic not in self._topics():
            ensure_topic(self.url, topic)

    def put_away(self) -> None:
        """Nothing lies outside its folder."""

    def _topics(self) -> list[str]:
        if not accepts(self.port):  # the client would go on trying for long
            raise ConnectionRefusedError(self.port)
        admin = KafkaAdminClient(bootstrap_servers=self.url, request_timeout_ms=5_000)
        try:
            return list(admin.list_topics())
        finally:
            admin.close()


def ensure_topic(servers: str, topic: str, partitions: int = PARTITIONS) -> None:
    """Makes a topic if there is none of that name. Raises KafkaError."""
    admin = KafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=5_000)
    try:
        if topic not in admin.list_topics():
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
