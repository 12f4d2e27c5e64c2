"""Pauses, rate limits and slots: what holds an order back costs it nothing, all workers keep to it,
and the sweep too.
"""

import threading
import time

import pytest
from django.db import OperationalError
from pytest_django import Settings

from base.clock import shift_clock
from base.db import call
from clearing.gateways import Action, Blocked, Retryable, counterparty_state
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Attempt, Clearing, CounterpartyState, CounterpartyStateChange
from clearing.status import State
from ops.recovery.sweep import sweep
from tests.clearing.outages import UNREACHABLE, a_worker, blocked_by, counted, make_due
from tests.support.orders import World, outcomes


class TestPause:
    def test_of_one_step_drains_it_and_keeps_the_rest(self, world: World) -> None:
        counterparty_state.set_pause("trading", 3, paused=True, reason="their release", actor="ann")

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.step, clearing.error_code, clearing.attempts) == (State.RETRYING, 3, "counterparty_paused", 0)
        assert world.keys_applied(clearing) == ["1", "2"]

    def test_of_one_step_of_a_counterparty_leaves_its_other_one(self, world: World) -> None:
        counterparty_state.set_pause("fund", 4, paused=True, reason="their release", actor="ann")

        assert world.run(world.accept()).step == 4

    def test_costs_no_attempts_however_long_and_the_order_goes_on_at_once(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ATTEMPTS_MAX = 1
        counterparty_state.set_pause("fund", 0, paused=True, reason="their release", actor="ann")
        clearing = world.run(world.accept())
        for _ in range(3):
            make_due(clearing)
            assert sweep()["was_retrying"] == 0

        counterparty_state.set_pause("fund", 0, paused=False, reason="they are back", actor="bob")
        world.guard = a_worker()
        assert sweep()["was_retrying"] == 1
        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert [outcome for _, outcome, _ in outcomes(clearing)] == ["done"] * 4
        assert list(CounterpartyStateChange.objects.order_by("id").values_list("change", "actor", "reason")) == [
            ("paused", "ann", "their release"),
            ("resumed", "bob", "they are back"),
        ]

    def test_a_person_who_was_late_changes_nothing(self, world: World) -> None:
        counterparty_state.set_pause("fund", 0, paused=True, reason="their release", actor="ann")

        assert not counterparty_state.set_pause("fund", 0, paused=True, reason="the same", actor="bob")
        assert CounterpartyStateChange.objects.count() == 1

    def test_a_blocked_order_comes_due_within_a_second(self, world: World) -> None:
        counterparty_state.set_pause("fund", 0, paused=True, reason="their release", actor="ann")

        clearing = world.run(world.accept())

        assert clearing.due_at is not None
        assert (clearing.due_at - clearing.changed_at).total_seconds() <= 1


class TestRateLimit:
    @pytest.fixture
    def limited(self, world: World, settings: Settings) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.0, "fund": 20.0, "trading": 0.0}

    def test_holds_over_all_workers_together(self, world: World, limited: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """The test shifts both clocks, the database's and the workers'. What really passes
        meanwhile only adds to what the rate allows.
        """
        shifted, real = 0.0, time.monotonic
        monkeypatch.setattr("clearing.gateways.circuit_breaker.monotonic", lambda: real() + shifted)
        workers = [a_worker(), a_worker(), a_worker()]
        began, allowed = real(), 0

        for quarter in range(9):  # 20 a second: five a quarter
            shifted = quarter * 0.25
            shift_clock(shifted)
            allowed += sum(blocked_by(worker) == "" for _ in range(6) for worker in workers)

        bucket, rate = 10, 20
        assert bucket + 40 - 3 <= allowed <= bucket + rate * (2 + real() - began)

    def test_who_is_over_it_waits_without_an_attempt(self, world: World, limited: None, settings: Settings) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.0, "fund": 0.5, "trading": 0.0}

        first, second = world.run(world.accept("1")), world.run(world.accept("2"))

        assert (first.step, first.error_code) == (4, "counterparty_limited")
        assert (second.step, second.error_code, second.attempts) == (2, "counterparty_limited", 0)
        assert second.due_at is not None
        assert (second.due_at - second.changed_at).total_seconds() > 1

    def test_what_is_asked_for_is_sent_though_one_call_at_a_time_is_allowed(self, world: World, settings: Settings) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.0, "fund": 0.5, "trading": 0.0}
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.RESET))
        unsure = world.run(world.accept())
        assert unsure.state == State.UNKNOWN
        shift_clock(20)  # within a signature's validity
        world.guard._leases.clear()  # of this process, whose clock isn't the database's

        sweep()
        world.run(unsure)

        assert world.keys_applied(unsure) == ["1", "2", "3"]
        assert (unsure.step, unsure.error_code) == (4, "counterparty_limited")
        assert world.guard._leases["fund"].tokens < 0

    def test_costs_a_round_trip_a_tenth_of_a_second_not_a_call(self, world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.0, "fund": 1000.0, "trading": 0.0}
        leases = counted(monkeypatch, "lease_calls")
        worker = a_worker()

        assert [blocked_by(worker) for _ in range(100)] == [""] * 100
        assert len(leases) == 1

    def test_nobody_waits_for_another_threads_slow_lease(self, world: World, limited: None, monkeypatch: pytest.MonkeyPatch) -> None:
        leasing, leave = threading.Event(), threading.Event()

        def slow(*_: object) -> tuple[int, float]:
            leasing.set()
            leave.wait(60)
            return 1, 0.0

        monkeypatch.setattr(counterparty_state, "lease_calls", slow)
        worker = a_worker()
        assert blocked_by(worker, "counter", 1) == ""
        first = threading.Thread(target=blocked_by, args=(worker,))
        first.start()
        leasing.wait(30)

        found = blocked_by(worker), blocked_by(worker, "trading", 3)

        assert (found, first.is_alive()) == (("counterparty_limited", ""), True)
        leave.set()
        first.join(30)

    def test_a_database_error_at_the_first_call_of_a_process_defers_the_order(
        self, world: World, limited: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unavailable(*_: object) -> tuple[int, float]:
            raise OperationalError("the server closed the connection")

        monkeypatch.setattr(counterparty_state, "lease_calls", unavailable)

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.step, clearing.error_code) == (State.RETRYING, 2, "counterparty_limited")
        assert (clearing.attempts, [outcome for _, outcome, _ in outcomes(clearing)]) == (0, ["done"])

    def test_a_sure_failure_counts_although_its_repeat_in_place_is_over_the_limit(self, world: World, settings: Settings) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.01, "fund": 0.0, "trading": 0.0}
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=100)

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.error_code, clearing.attempts, clearing.tries) == (State.RETRYING, "connection_refused", 1, 1)
        assert outcomes(clearing) == [(1, "retryable", "connection_refused")]

    def test_an_order_that_always_fails_parks_although_one_call_at_a_time_is_allowed(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ATTEMPTS_MAX = 3
        settings.COUNTERPARTY_RATES = {"counter": 0.01, "fund": 0.0, "trading": 0.0}
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=100)
        clearing = world.accept()
        world.run(clearing)

        for _ in range(4):
            CounterpartyState.objects.update(tokens=1)  # the next call is allowed
            world.guard = a_worker()
            world.when_due(clearing)

        assert (clearing.state, clearing.error_code, clearing.attempts) == (State.PARKED, "connection_refused", 3)

    def test_retry_after_of_one_user_makes_his_order_wait_and_nobody_elses(self, world: World) -> None:
        quiet = Fault(kind=FaultKind.STATUS, status=429, code="too_many_requests", latency_ms=60_000)
        limited = world.accept("1")
        world.counterparties.script(Action.TRANSFER, quiet, times=3, match=limited.order.order_id)

        for _ in range(3):
            world.when_due(limited)
        other = world.run(world.accept("2"))

        assert (limited.state, limited.error_code, limited.attempts) == (State.RETRYING, "too_many_requests", 0)
        assert limited.due_at is not None
        assert (limited.due_at - limited.changed_at).total_seconds() > 50
        assert other.state == State.CLEARED

    def test_retry_after_that_two_users_meet_holds_for_everybody_as_long_as_the_shorter_one(self, world: World) -> None:
        for seconds in (60, 200):
            world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.STATUS, status=429, latency_ms=seconds * 1_000))

        orders = [world.run(world.accept(str(user))) for user in range(2)]
        world.guard = a_worker()
        third = world.run(world.accept("9"))

        assert [order.error_code for order in (*orders, third)] == ["injected_fault"] * 2 + ["counterparty_limited"]
        assert third.due_at is not None
        assert 50 < (third.due_at - third.changed_at).total_seconds() <= 60

    def test_retry_after_holds_for_every_worker_where_the_answer_says_so(self, world: World) -> None:
        quiet = Fault(kind=FaultKind.STATUS, status=429, code="too_many_requests", latency_ms=60_000, scope="all")
        world.counterparties.script(Action.TRANSFER, quiet)

        first = world.run(world.accept("1"))
        world.guard = a_worker()
        second = world.run(world.accept("2"))

        assert [order.error_code for order in (first, second)] == ["too_many_requests", "counterparty_limited"]
        assert second.due_at is not None
        assert (second.due_at - second.changed_at).total_seconds() > 50
        make_due(second)
        assert sweep()["was_retrying"] == 0


class TestSweepDispatchesNoMoreThanFits:
    @pytest.fixture
    def waiting(self, world: World) -> list[Clearing]:
        """Due orders at the fund."""
        counterparty_state.set_pause("fund", 0, paused=True, reason="to gather them", actor="test")
        clearings = [world.run(world.accept(str(user))) for user in range(8)]
        counterparty_state.set_pause("fund", 0, paused=False, reason="go", actor="test")
        world.guard = a_worker()
        make_due(*clearings)
        return clearings

    def test_all_of_them_when_the_counterparty_is_well(self, waiting: list[Clearing]) -> None:
        assert sweep()["was_retrying"] == 8

    def test_as_many_as_slots_are_free_when_it_is_full(self, waiting: list[Clearing], settings: Settings) -> None:
        settings.GATEWAY_CALLS_MAX = 3
        register_worker()
        counterparty_state.note_busy("fund")

        assert [sweep()["was_retrying"], sweep()["was_retrying"]] == [3, 0]

    def test_a_few_trials_when_it_may_be_back(self, waiting: list[Clearing]) -> None:
        counterparty_state.open_breaker("fund", "timeout", refuses=False, actor="test")
        counterparty_state.half_open("fund", actor="test")

        assert [sweep()["was_retrying"], sweep()["was_retrying"]] == [counterparty_state.TRIALS_MAX, 0]

    def test_what_a_rate_limit_allows(self, waiting: list[Clearing], settings: Settings) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.0, "fund": 5.0, "trading": 0.0}

        assert sweep()["was_retrying"] == 5

    def test_the_others_are_not_held_up(self, world: World, waiting: list[Clearing]) -> None:
        world.counterparties.script(Action.EXCHANGE, UNREACHABLE, times=2)
        at_trading = world.run(world.accept("99"))
        make_due(at_trading)
        counterparty_state.set_pause("fund", 0, paused=True, reason="again", actor="test")

        assert sweep()["was_retrying"] == 1


def register_worker() -> None:
    call("INSERT INTO base_incarnation (name, role, host, pid, version) VALUES ('w1', 'worker', 'h', 1, '') RETURNING name", [])


class TestSlots:
    def test_who_finds_none_costs_no_attempt_and_leaves_no_evidence(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise Blocked("counterparty_busy")

        monkeypatch.setattr("clearing.gateways.ports.Gateways.perform", full)

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.error_code, clearing.attempts) == (State.RETRYING, "counterparty_busy", 0)
        assert Attempt.objects.count() == 0
        assert counterparty_state.read().busy == {"counter"}

    def test_a_sure_failure_counts_although_its_repeat_in_place_finds_no_slot(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = [Retryable("request_unsendable"), Blocked("counterparty_busy")]

        def perform(*_: object) -> None:
            raise answers.pop(0)

        monkeypatch.setattr("clearing.gateways.ports.Gateways.perform", perform)

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.error_code, clearing.attempts, clearing.tries) == (State.RETRYING, "request_unsendable", 1, 1)
        assert outcomes(clearing) == [(1, "retryable", "request_unsendable")]
