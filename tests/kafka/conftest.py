import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kafka.broker import Broker, missing

ASKED = "TEST_KAFKA"


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A real Kafka for all tests; each has a topic and a group of its own."""
    if os.environ.get(ASKED) != "1":
        pytest.skip("a real Kafka is started by `make test-kafka` alone")
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("kafka")
    running = Broker(folder / "broker", *certificate(folder))
    running.prepare()
    try:
        running.start()
        yield running
    finally:
        running.kill()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    pem, key = folder / "broker.pem", folder / "broker.key"
    subject = ["-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key
