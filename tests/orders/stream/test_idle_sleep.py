"""The pause of a consumer whose broker doesn't wait for data itself (the stack's emulator)."""

import pytest
from pytest_django import Settings

from orders.stream.consumer import idle_sleep_seconds


@pytest.mark.parametrize(
    ("most_ms", "quiet_seconds", "slept"),
    [(64, 0.0, 0.008), (64, 0.3, 0.03), (64, 5.0, 0.064), (64, 100_000.0, 0.064), (5, 0.0, 0.005), (0, 5.0, 0.0)],
    ids=["orders flow", "a short gap", "a quiet minute", "a quiet day", "a short pause is asked for", "a broker that waits itself"],
)
def test_grows_with_the_time_that_nothing_came(settings: Settings, most_ms: int, quiet_seconds: float, slept: float) -> None:
    settings.KAFKA_IDLE_SLEEP_MS = most_ms

    assert idle_sleep_seconds(quiet_seconds) == pytest.approx(slept)
