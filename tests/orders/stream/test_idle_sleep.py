"""The pause of a consumer whose broker doesn't wait for data itself (the stack's emulator)."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_django import Settings

from orders.stream import consumer
from orders.stream.consumer import BinlogConsumer, idle_sleep_seconds


class Silent:
    """A log that has nothing, and answers at once."""

    def poll(self, **_: object) -> dict[str, object]:
        return {}

    def assignment(self) -> set[str]:
        return {"a partition"}

    class _coordinator:  # noqa: N801 - kafka-python's name
        @staticmethod
        def need_rejoin() -> bool:
            return False

    def close(self, **_: object) -> None:
        pass


class Pauses(threading.Event):
    """Takes no time; the third pause is the last."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.asked.append(timeout or 0)
        if len(self.asked) == 3:
            self.set()
        return self.is_set()


@pytest.mark.parametrize(
    ("most_ms", "quiet_seconds", "slept"),
    [(64, 0.0, 0.008), (64, 0.3, 0.03), (64, 5.0, 0.064), (64, 100_000.0, 0.064), (5, 0.0, 0.005), (0, 5.0, 0.0)],
    ids=["orders flow", "a short gap", "a quiet minute", "a quiet day", "a short pause is asked for", "a broker that waits itself"],
)
def test_grows_with_the_time_that_nothing_came(settings: Settings, most_ms: int, quiet_seconds: float, slept: float) -> None:
    settings.KAFKA_IDLE_SLEEP_MS = most_ms

    assert idle_sleep_seconds(quiet_seconds) == pytest.approx(slept)


def test_a_consumer_that_hears_nothing_pauses_longer_and_longer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.KAFKA_IDLE_SLEEP_MS = 64
    seconds = iter(range(10_000))
    monkeypatch.setattr(consumer, "time", SimpleNamespace(monotonic=lambda: next(seconds) / 20))
    log: Any = Silent()
    rules: Any = "of an intake that has started"
    pauses = Pauses()

    BinlogConsumer(lambda _: log, lambda _: None, lambda: rules, pauses).run()  # type: ignore[arg-type]

    assert pauses.asked == sorted(set(pauses.asked))
    assert max(pauses.asked) <= 0.064
