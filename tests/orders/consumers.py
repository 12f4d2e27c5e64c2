"""Consumers that read the test's topic, in a thread or as a process, and what they have stored."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.conf import settings as configured
from django.db import connection

from base import metrics
from orders.intake.ingest import Intake
from orders.intake.mapping import Rules
from orders.models import SyncOrder
from orders.stream.consumer import BinlogConsumer, ExitCode, connect
from tests.orders.messages import RULES, message, row


class Crash(BaseException):
    """What nothing in the consumer may catch, like a SIGKILL."""


@dataclass
class Running:
    """A consumer in a thread."""

    intake: Intake
    idle_seconds: float | None = None
    open_log: Callable[[Any], Any] = field(default_factory=lambda: partial(connect, configured.KAFKA_GROUP))
    read_rules: Callable[[], Rules] = lambda: RULES
    stopping: threading.Event = field(default_factory=threading.Event)
    ended: ExitCode | None = None

    def __post_init__(self) -> None:
        self.consumer = BinlogConsumer(self.open_log, self.intake, self.read_rules, self.stopping, idle_seconds=self.idle_seconds)
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
def running(intake: Intake, **options: Any) -> Iterator[Running]:
    started = Running(intake, **options)
    try:
        yield started
    finally:
        started.stop()


@contextmanager
def process(environment: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "manage.py", "consume_binlog", *options]
    with subprocess.Popen(command, cwd=configured.BASE_DIR, env=environment, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def orders(*numbers: int) -> list[bytes]:
    return [message(row(f"O{number:04d}", user_id=str(number))) for number in numbers]


def lag() -> float:
    return sum(float(metrics.INTAKE_LAG.labels(str(partition))._value.get()) for partition in range(4))


def stored() -> int:
    return SyncOrder.objects.count()
