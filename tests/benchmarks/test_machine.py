"""How fast this machine is, and the share of what it holds that a run places."""

import pytest

from benchmarks import machine
from benchmarks.errors import BenchmarkError
from benchmarks.machine import Rate, Slowness


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "slowness", lambda: Slowness(1.0, 0.5))


@pytest.mark.parametrize(("holds", "places"), [(64, 32), (500, 40), (65.9, 32), (3, 2), (1, 2)])
def test_a_run_places_half_of_what_the_machine_holds(holds: float, places: float) -> None:
    assert Rate.of(holds, at_most=40.0).places == places


def test_a_run_says_what_the_machine_holds_and_what_it_places() -> None:
    assert str(Rate.of(64.0, at_most=40.0)) == "this machine holds 64 orders/s; the run places 32/s"
    assert str(Rate(25.0)) == "the run places 25 orders/s, as given"


def test_a_machine_that_clears_nothing_holds_no_rate() -> None:
    with pytest.raises(BenchmarkError, match="holds 0"):
        Rate.of(0.0, at_most=40.0)


def test_a_machine_is_never_faster_than_the_reference() -> None:
    slowness = machine.slowness()

    assert slowness.factor >= 1.0
    assert slowness.scaled(10.0) == 10.0 * slowness.factor
    assert machine.slowness() is slowness


def test_a_loop_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOOP", "import sys; sys.exit(3)")

    with pytest.raises(BenchmarkError, match="calibration loop ended with"):
        machine._loop_seconds()


def test_what_the_service_holds_is_what_it_cleared_a_second(monkeypatch: pytest.MonkeyPatch, reference: None) -> None:
    placed: list[tuple[int, float]] = []
    monkeypatch.setattr(machine, "_read_trial", lambda *_: (placed[-1][0], placed[-1][0], 4_000.0))

    held = machine.held(lambda count, rate: placed.append((count, rate)), "unused")

    assert held == machine.TRIAL_ORDERS / 4
    assert sum(count for count, _ in placed) == machine.TRIAL_IN_ALL


def test_trial_orders_that_are_not_cleared_are_told(monkeypatch: pytest.MonkeyPatch, reference: None) -> None:
    monkeypatch.setattr(machine, "TRIAL_SECONDS_MAX", 0.1)
    monkeypatch.setattr(machine, "_read_trial", lambda *_: (7, 60, 4_000.0))

    with pytest.raises(BenchmarkError, match="7 of 60 trial orders were cleared"):
        machine.held(lambda *_: None, "unused")


def test_a_rate_is_halved_down_to_the_least() -> None:
    assert [rate.places for rate in Rate(23.0, 46.0).halves()] == [23.0, 11.0, 5.0, 2.0]
    assert [rate.holds for rate in Rate(2.0, 3.0).halves()] == [3.0]
