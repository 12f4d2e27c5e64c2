"""The rate at which orders flow while processes are replaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import rolling
from benchmarks.errors import BenchmarkError
from benchmarks.machine import Rate


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> rolling.Service:
    """A service whose placing only notes its rate."""

    @contextmanager
    def placing(self: rolling.Service, rate: float) -> Iterator[None]:
        yield

    monkeypatch.setattr(rolling.Service, "placing", placing)
    return rolling.Service(tmp_path)


def steady_up_to(monkeypatch: pytest.MonkeyPatch, most: float) -> list[float]:
    """The machine clears so many orders a second steadily; the rates that are tried."""
    tried: list[float] = []

    def flows(_: str, rate: float) -> bool:
        tried.append(rate)
        return rate <= most

    monkeypatch.setattr(rolling, "flows_steadily", flows)
    return tried


def test_a_rate_that_does_not_flow_steadily_is_halved(service: rolling.Service, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = steady_up_to(monkeypatch, 6.0)

    with service.flowing(Rate(23.0, 47.0), "") as rate:
        assert (rate.places, rate.holds) == (5.0, 47.0)

    assert tried == [23.0, 11.0, 5.0]


def test_a_rate_that_was_given_is_not_lowered(service: rolling.Service, monkeypatch: pytest.MonkeyPatch) -> None:
    steady_up_to(monkeypatch, 6.0)

    with pytest.raises(BenchmarkError, match="not even at 20 orders/s"), service.flowing(Rate(20.0), ""):
        pytest.fail("it doesn't flow")


def test_a_machine_on_which_no_rate_flows_is_told(service: rolling.Service, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = steady_up_to(monkeypatch, 0.0)

    with pytest.raises(BenchmarkError, match="not even at 2 orders/s"), service.flowing(Rate(8.0, 16.0), ""):
        pytest.fail("it doesn't flow")

    assert tried == [8.0, 4.0, 2.0]
