"""The breaker of a counterparty: when it opens, what it lets through when it is half open, and the
probe that finds the counterparty back.
"""

import threading

import pytest
from django.db import OperationalError
from pytest_django import Settings

from base.db import call
from clearing.gateways import Action, UnknownOutcome, counterparty_state
from clearing.gateways import circuit_breaker as guard_module
from clearing.gateways.circuit_breaker import Guard, Permit
from clearing.gateways.counterparty_state import StateSnapshot
from clearing.models import CounterpartyState, CounterpartyStateChange
from clearing.status import Breaker
from ops.recovery import probe
from tests.clearing.outages import (
    FORBIDDEN,
    UNAUTHORIZED,
    UNREACHABLE,
    a_worker,
    alarms,
    answered,
    blocked_by,
    breaker,
    counted,
    fail,
    probe_is_due,
    refused,
)
from tests.support.orders import World


class TestBreaker:
    def test_opens_after_failures_and_every_worker_knows(self, world: World) -> None:
        one, other, before = a_worker(), a_worker(), alarms("counterparty_down")

        fail(one)

        assert breaker() == Breaker.OPEN
        assert (blocked_by(one), blocked_by(other), blocked_by(other, "trading", 3)) == ("counterparty_down", "counterparty_down", "")
        assert alarms("counterparty_down") == before + 1

    def test_who_finds_it_down_after_another_raises_no_second_alarm(self, world: World) -> None:
        before = alarms("counterparty_down")

        for actor in ("one", "other"):
            counterparty_state.open_breaker("fund", "timeout", refuses=False, actor=actor)

        assert alarms("counterparty_down") == before + 1

    def test_four_failures_and_a_few_among_many_calls_are_no_outage(self, world: World) -> None:
        worker = a_worker()

        fail(worker, times=4)
        for _ in range(20):
            answered(worker, object())
        fail(worker, times=4)

        assert breaker() == Breaker.CLOSED

    def test_one_that_goes_down_under_load_is_noticed_in_spite_of_its_good_calls(self, world: World) -> None:
        worker = a_worker()
        for _ in range(500):
            answered(worker, object())

        fail(worker, times=4)
        assert breaker() == Breaker.CLOSED
        fail(worker, times=1)

        assert breaker() == Breaker.OPEN

    def test_calls_in_flight_that_all_fail_at_once_are_no_outage(self, world: World) -> None:
        """As after a pause of this process."""
        worker = a_worker()
        for _ in range(500):
            answered(worker, object())

        in_flight = [permit_for(worker, f"O{number}:2") for number in range(12)]
        for permit in in_flight:
            permit.record(refused())

        assert breaker() == Breaker.CLOSED

    def test_what_says_nothing_of_the_counterparty_does_not_open_it(self, world: World) -> None:
        worker = a_worker()

        for _ in range(20):
            answered(worker, UnknownOutcome("unreadable_body"))

        assert breaker() == Breaker.CLOSED

    def test_one_order_that_it_stumbles_over_is_no_outage(self, world: World) -> None:
        worker = a_worker()

        for _ in range(20):
            answered(worker, refused(), "O1:2")

        assert breaker() == Breaker.CLOSED

    def test_old_failures_are_forgotten(self, world: World, settings: Settings) -> None:
        settings.BREAKER_WINDOW_SECONDS = -1.0  # each is older than that at once
        fail(a_worker(), times=50)

        assert breaker() == Breaker.CLOSED

    def test_a_call_that_began_before_it_closed_does_not_open_it_again(self, world: World) -> None:
        worker = a_worker()
        in_flight = [permit_for(worker, f"O{number}:2") for number in range(20)]
        fail(worker)
        counterparty_state.half_open("fund", actor="test")
        counterparty_state.close("fund", actor="test")
        worker._read_at = float("-inf")
        assert blocked_by(worker) == ""

        for permit in in_flight:
            permit.record(refused())

        assert breaker() == Breaker.CLOSED

    def test_without_the_database_calls_go_on_with_what_was_known(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        worker = a_worker()
        fail(worker)
        assert blocked_by(worker) == "counterparty_down"
        monkeypatch.setattr(counterparty_state, "read", lambda: (_ for _ in ()).throw(OperationalError("away")))
        worker._read_at = float("-inf")

        assert blocked_by(worker) == "counterparty_down"

    def test_reading_it_is_no_round_trip_for_each_call(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        reads = counted(monkeypatch, "read")
        monkeypatch.setattr(guard_module, "READ_SECONDS", 60.0)
        worker = a_worker()

        for _ in range(100):
            assert blocked_by(worker) == ""
            answered(worker, object())

        assert len(reads) == 1


def permit_for(worker: Guard, key: str) -> Permit:
    """Of a call that is in flight."""
    with worker.admit("fund", 2, key) as permit:
        return permit


class TestPermit:
    def test_records_one_answer(self, world: World) -> None:
        permit = permit_for(a_worker(), "O:2")
        permit.record(object())

        with pytest.raises(RuntimeError):
            permit.record(object())


class TestFirstRead:
    def test_no_thread_makes_a_call_before_it(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        reading, leave, blocked = threading.Event(), threading.Event(), list[str]()

        def slow() -> StateSnapshot:
            reading.set()
            leave.wait(60)
            return StateSnapshot(paused=frozenset({("fund", 0)}))

        monkeypatch.setattr(counterparty_state, "read", slow)
        worker = a_worker()
        threads = [threading.Thread(target=lambda: blocked.append(blocked_by(worker))) for _ in range(2)]
        threads[0].start()
        reading.wait(30)
        threads[1].start()
        threads[1].join(0.5)
        leave.set()
        for thread in threads:
            thread.join(30)

        assert blocked == ["counterparty_paused"] * 2

    def test_that_fails_is_repeated_at_the_next_call(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        counterparty_state.set_pause("fund", 0, paused=True, reason="their release", actor="ann")
        worker = a_worker()
        with monkeypatch.context() as patched:
            patched.setattr(counterparty_state, "read", lambda: (_ for _ in ()).throw(OperationalError("away")))
            blocked_by(worker)

        assert blocked_by(worker) == "counterparty_paused"


class TestHalfOpen:
    @pytest.fixture
    def worker(self, world: World) -> Guard:
        """Of a counterparty that was down, and has answered a probe."""
        worker = a_worker()
        fail(worker)
        counterparty_state.half_open("fund", actor="test")
        worker._read_at = float("-inf")
        return worker

    def test_one_call_at_a_time_tries(self, worker: Guard) -> None:
        with worker.admit("fund", 2, "O:2"):
            assert blocked_by(worker) == "counterparty_down"

        assert blocked_by(worker) == ""

    def test_an_exception_while_it_is_admitted_gives_the_trial_back(self, worker: Guard, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.0, "fund": 50.0, "trading": 0.0}

        def fails(*_: object) -> tuple[int, float]:
            raise RuntimeError("an internal error")

        with monkeypatch.context() as patched:
            patched.setattr(counterparty_state, "lease_calls", fails)
            with pytest.raises(RuntimeError):
                blocked_by(worker)

        assert blocked_by(worker) == ""

    def test_an_exception_during_the_call_gives_the_trial_back(self, worker: Guard) -> None:
        with pytest.raises(RuntimeError), worker.admit("fund", 2, "O:2"):
            raise RuntimeError("an internal error")

        assert blocked_by(worker) == ""

    def test_a_good_one_closes_it(self, worker: Guard) -> None:
        answered(worker, object())

        assert breaker() == Breaker.CLOSED
        assert blocked_by(worker) == ""

    def test_a_bad_one_opens_it_again_and_the_next_probe_is_later(self, worker: Guard) -> None:
        fail(worker, times=1)

        found = CounterpartyState.objects.get(pk="fund")
        assert (found.breaker, found.failures) == (Breaker.OPEN, 1)
        assert found.probe_at is not None
        assert (found.probe_at - found.changed_at).total_seconds() == 2

    def test_every_change_is_kept(self, worker: Guard) -> None:
        answered(worker, object())

        assert list(CounterpartyStateChange.objects.order_by("id").values_list("change", "actor")) == [
            ("open", "w"),
            ("half_open", "test"),
            ("closed", "w"),
        ]


class TestProbe:
    def test_that_is_not_answered_leaves_it_open(self, world: World) -> None:
        fail(world.guard)
        world.counterparties.script("status", UNREACHABLE)
        probe_is_due()

        assert probe.probe_all(world.counterparties.gateways()) == 0
        assert breaker() == Breaker.OPEN
        assert probe.probe_all(world.counterparties.gateways()) == 0  # not yet due again

    def test_is_made_by_one_sweeper_alone(self, world: World) -> None:
        fail(world.guard)
        probe_is_due()

        assert len(counterparty_state.take_probes(10)) == 1
        assert counterparty_state.take_probes(10) == []

    def test_whose_answer_comes_late_does_not_open_what_has_closed_meanwhile(self, world: World) -> None:
        fail(world.guard)
        counterparty_state.half_open("fund", actor="test")
        counterparty_state.close("fund", actor="test")

        assert not counterparty_state.half_open("fund", actor="late")
        assert breaker() == Breaker.CLOSED

    def test_that_is_refused_is_made_again_after_ten_seconds(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, UNAUTHORIZED)
        world.run(world.accept())
        world.counterparties.script("status", FORBIDDEN)
        probe_is_due("counter")

        probe.probe_all(world.counterparties.gateways())

        assert 5 < call("SELECT extract(epoch FROM probe_at - service_now()) FROM clearing_standing WHERE name = 'counter'", [])[0][0] <= 10

    def test_changes_nothing_there(self, world: World) -> None:
        fail(world.guard)
        probe_is_due()

        probe.probe_all(world.counterparties.gateways())

        assert world.counterparties.applied == []
