"""Breakers, pauses, limits: what stands between an order and a counterparty costs the order nothing, and all workers know of it."""

import threading
import time
from datetime import timedelta

import pytest
from django.db import OperationalError
from pytest_django import Settings

from base import metrics
from base.clock import ServiceNow, shift_clock
from base.db import call
from clearing import guard as guard_module
from clearing import standing, steps
from clearing.gateways import Action, Blocked, Retryable, UnknownOutcome
from clearing.gateways.fake import Fault, FaultKind
from clearing.guard import Guard
from clearing.models import Attempt, Clearing, ErrorPolicy, Standing, StandingChange
from clearing.outcomes import Health
from clearing.status import Breaker, OperationState, State
from clearing.steps import FORBIDDEN_ATTEMPTS_MAX
from ops import probe
from ops.sweep import sweep
from tests.support.orders import World, operation, outcomes

UNREACHABLE = Fault(kind=FaultKind.UNREACHABLE)
FORBIDDEN = Fault(kind=FaultKind.STATUS, status=403, code="forbidden")
UNAUTHORIZED = Fault(kind=FaultKind.STATUS, status=401, code="unauthorized")
ALARMS = "acceptance_alarms_total"


def a_worker(name: str = "w") -> Guard:
    return Guard(lambda: name)


def refused() -> Retryable:
    error = Retryable("connection_refused")
    error.health = Health.FAILING
    return error


def fail(worker: Guard, counterparty: str = "fund", times: int = 5) -> None:
    for number in range(times):
        with worker.admitted(counterparty, 2):
            worker.heard(counterparty, f"O{number}:2", refused(), time.monotonic())


def breaker(counterparty: str = "fund") -> str:
    return Standing.objects.filter(pk=counterparty).values_list("breaker", flat=True).first() or "closed"


def blocked_by(worker: Guard, counterparty: str = "fund", step: int = 2) -> str:
    """What stands in the way of a call; empty: nothing."""
    try:
        with worker.admitted(counterparty, step):
            return ""
    except Blocked as blocked:
        return blocked.code


def alarms(code: str) -> float:
    return metrics.REGISTRY.get_sample_value(ALARMS, {"code": code}) or 0


def probe_is_due(counterparty: str = "fund") -> None:
    Standing.objects.filter(pk=counterparty).update(probe_at="2020-01-01T00:00:00Z")


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
            standing.open_breaker("fund", "timeout", refuses=False, actor=actor)

        assert alarms("counterparty_down") == before + 1

    def test_four_failures_and_a_few_among_many_calls_are_no_outage(self, world: World) -> None:
        worker = a_worker()

        fail(worker, times=4)
        for _ in range(20):
            worker.heard("fund", "O:2", object(), time.monotonic())
        fail(worker, times=4)

        assert breaker() == Breaker.CLOSED

    def test_one_that_goes_down_under_load_is_noticed_in_spite_of_its_good_calls(self, world: World) -> None:
        worker = a_worker()
        for _ in range(500):
            worker.heard("fund", "O:2", object(), time.monotonic())

        fail(worker, times=4)
        assert breaker() == Breaker.CLOSED
        fail(worker, times=1)

        assert breaker() == Breaker.OPEN

    def test_calls_in_flight_that_all_fail_at_once_are_no_outage(self, world: World) -> None:
        """As after a pause of this process."""
        worker, began = a_worker(), time.monotonic()
        for _ in range(500):
            worker.heard("fund", "O:2", object(), time.monotonic())

        for number in range(12):
            worker.heard("fund", f"O{number}:2", refused(), began)

        assert breaker() == Breaker.CLOSED

    def test_what_says_nothing_of_the_counterparty_does_not_open_it(self, world: World) -> None:
        worker = a_worker()

        for _ in range(20):
            worker.heard("fund", "O:2", UnknownOutcome("unreadable_body"), time.monotonic())

        assert breaker() == Breaker.CLOSED

    def test_one_order_that_it_stumbles_over_is_no_outage(self, world: World) -> None:
        worker = a_worker()

        for _ in range(20):
            worker.heard("fund", "O1:2", refused(), time.monotonic())

        assert breaker() == Breaker.CLOSED

    def test_old_failures_are_forgotten(self, world: World, settings: Settings) -> None:
        settings.BREAKER_WINDOW_SECONDS = -1.0  # each is older than that at once
        fail(a_worker(), times=50)

        assert breaker() == Breaker.CLOSED

    def test_a_call_that_began_before_it_closed_does_not_open_it_again(self, world: World) -> None:
        worker, began = a_worker(), time.monotonic()
        fail(worker)
        standing.half_open("fund", actor="test")
        standing.close("fund", actor="test")
        worker._read_at = float("-inf")
        assert blocked_by(worker) == ""

        for number in range(20):
            worker.heard("fund", f"O{number}:2", refused(), began)

        assert breaker() == Breaker.CLOSED

    def test_without_the_database_calls_go_on_with_what_was_known(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        worker = a_worker()
        fail(worker)
        assert blocked_by(worker) == "counterparty_down"
        monkeypatch.setattr(standing, "read", lambda: (_ for _ in ()).throw(OperationalError("away")))
        worker._read_at = float("-inf")

        assert blocked_by(worker) == "counterparty_down"

    def test_reading_it_is_no_round_trip_for_each_call(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        reads = counted(monkeypatch, "read")
        monkeypatch.setattr(guard_module, "READ_SECONDS", 60.0)
        worker = a_worker()

        for _ in range(100):
            assert blocked_by(worker) == ""
            worker.heard("fund", "O:2", object(), time.monotonic())

        assert len(reads) == 1


class TestHalfOpen:
    @pytest.fixture
    def worker(self, world: World) -> Guard:
        """Of a counterparty that was down, and has answered a probe."""
        worker = a_worker()
        fail(worker)
        standing.half_open("fund", actor="test")
        worker._read_at = float("-inf")
        return worker

    def test_one_call_at_a_time_tries(self, worker: Guard) -> None:
        with worker.admitted("fund", 2):
            assert blocked_by(worker) == "counterparty_down"

        assert blocked_by(worker) == ""

    def test_a_good_one_closes_it(self, worker: Guard) -> None:
        with worker.admitted("fund", 2):
            worker.heard("fund", "O:2", object(), time.monotonic())

        assert breaker() == Breaker.CLOSED
        assert blocked_by(worker) == ""

    def test_a_bad_one_opens_it_again_and_the_next_probe_is_later(self, worker: Guard) -> None:
        fail(worker, times=1)

        found = Standing.objects.get(pk="fund")
        assert (found.breaker, found.failures) == (Breaker.OPEN, 1)
        assert found.probe_at is not None
        assert (found.probe_at - found.changed_at).total_seconds() == 2

    def test_every_change_is_kept(self, worker: Guard) -> None:
        with worker.admitted("fund", 2):
            worker.heard("fund", "O:2", object(), time.monotonic())

        assert list(StandingChange.objects.order_by("id").values_list("change", "actor")) == [("open", "w"), ("half_open", "test"), ("closed", "w")]


class TestOrdersOfACounterpartyThatIsDown:
    def test_wait_without_an_attempt_and_go_on_when_it_is_back(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ATTEMPTS_MAX = 1
        fail(world.guard)
        clearing = world.run(world.accept())
        assert (clearing.state, clearing.step, clearing.error_code) == (State.RETRYING, 2, "counterparty_down")
        assert (clearing.attempts, clearing.tries, clearing.waits_for) == (0, 0, "fund:2")
        assert outcomes(clearing) == [(1, "done", "")]

        make_due(clearing)
        assert sweep()["was_retrying"] == 0
        probe_is_due()
        assert probe.probe_all(world.counterparties.gateways()) == 1
        assert sweep()["was_retrying"] == 1
        world.guard = a_worker()  # half a second later
        world.run(clearing)

        assert (clearing.state, breaker()) == (State.CLEARED, Breaker.CLOSED)
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_what_is_unknown_stays_unknown(self, world: World) -> None:
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.APPLY_THEN_TIMEOUT))
        clearing = world.run(world.accept())
        fail(world.guard, times=4)

        world.when_due(clearing)

        assert (clearing.state, operation(clearing, 2).state) == (State.UNKNOWN, OperationState.UNKNOWN)
        assert outcomes(clearing) == [(1, "done", ""), (2, "unknown", "timeout")]

    def test_a_blocked_order_was_never_sent(self, world: World) -> None:
        fail(world.guard)

        clearing = world.run(world.accept())

        assert operation(clearing, 2).first_sent_at is None
        assert operation(clearing, 2).state == OperationState.PLANNED

    def test_real_calls_open_it(self, world: World) -> None:
        world.counterparties.script(Action.TRANSFER, UNREACHABLE, times=100)

        waiting = [world.run(world.accept(str(user))) for user in range(6)]

        assert breaker() == Breaker.OPEN
        assert waiting[-1].error_code == "counterparty_down"
        assert world.counterparties._faults[0].left == 95


class TestOrdersThatOutlastAnOutage:
    """Their backoff grew while the counterparty was away; its breaker has closed since."""

    def waiting(self, world: World, fault: Fault = UNREACHABLE) -> Clearing:
        world.counterparties.script(Action.TRANSFER, fault, times=2)
        clearing = world.run(world.accept())
        Clearing.objects.filter(pk=clearing.pk).update(due_at=ServiceNow() + timedelta(minutes=5))
        return clearing

    def outage(self) -> None:
        standing.open_breaker("fund", "connection_refused", refuses=False, actor="test")
        standing.half_open("fund", actor="test")
        standing.close("fund", actor="test")

    def test_keep_their_backoff_where_the_clock_was_ahead_when_it_was_back(self, world: World) -> None:
        self.waiting(world)
        shift_clock(7_200)
        self.outage()
        shift_clock(0)

        assert sweep()["brought_forward"] == 0

    def test_are_due_as_soon_as_it_is_back(self, world: World) -> None:
        self.waiting(world)
        assert sweep()["brought_forward"] == 0
        self.outage()

        counts = sweep()

        assert (counts["brought_forward"], counts["was_retrying"]) == (1, 1)

    def test_are_due_too_when_nobody_knows_what_became_of_them(self, world: World) -> None:
        self.waiting(world, Fault(kind=FaultKind.RESET))
        self.outage()

        assert sweep()["was_unknown"] == 1

    @pytest.mark.parametrize("breaker", [Breaker.OPEN, Breaker.HALF_OPEN])
    def test_wait_while_it_is_away(self, world: World, breaker: Breaker) -> None:
        self.waiting(world)
        standing.open_breaker("fund", "connection_refused", refuses=False, actor="test")
        if breaker == Breaker.HALF_OPEN:
            standing.half_open("fund", actor="test")

        assert sweep()["brought_forward"] == 0

    def test_are_none_of_another_counterparty(self, world: World) -> None:
        self.waiting(world)
        standing.open_breaker("trading", "connection_refused", refuses=False, actor="test")
        standing.half_open("trading", actor="test")
        standing.close("trading", actor="test")

        assert sweep()["brought_forward"] == 0

    def test_are_none_that_failed_since(self, world: World) -> None:
        self.outage()
        self.waiting(world)

        assert sweep()["brought_forward"] == 0

    def test_are_none_that_were_answered_and_may_have_been_told_to_wait(self, world: World) -> None:
        self.waiting(world, Fault(kind=FaultKind.STATUS, status=503, code="unavailable"))
        self.outage()

        assert sweep()["brought_forward"] == 0

    def test_are_none_whose_pauses_a_person_has_set(self, world: World) -> None:
        self.waiting(world)
        ErrorPolicy.objects.create(counterparty="fund", code="connection_refused", backoff_base_ms=300_000, backoff_cap_ms=300_000)
        self.outage()

        assert sweep()["brought_forward"] == 0

    def test_come_a_passs_rows_at_a_time(self, world: World, settings: Settings) -> None:
        settings.SWEEP_ROWS_MAX = 1
        for user in range(2):
            world.counterparties.script(Action.TRANSFER, UNREACHABLE, times=2)
            world.run(world.accept(str(user)))
        Clearing.objects.update(due_at=ServiceNow() + timedelta(minutes=5))
        self.outage()

        assert [sweep()["brought_forward"] for _ in range(3)] == [1, 1, 0]


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Of a function of `standing`: each of its calls from now on."""
    calls: list[object] = []
    real = getattr(standing, name)

    def counting(*arguments: object) -> object:
        calls.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(standing, name, counting)
    return calls


def make_due(*clearings: Clearing) -> None:
    """So that the sweep would dispatch them now, if nothing stood in the way."""
    Clearing.objects.filter(pk__in=[clearing.pk for clearing in clearings]).update(due_at="2020-01-01T00:00:00Z")


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

        assert len(standing.take_probes(10)) == 1
        assert standing.take_probes(10) == []

    def test_whose_answer_comes_late_does_not_open_what_has_closed_meanwhile(self, world: World) -> None:
        fail(world.guard)
        standing.half_open("fund", actor="test")
        standing.close("fund", actor="test")

        assert not standing.half_open("fund", actor="late")
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


class TestRefusedSignature:
    def test_pauses_the_counterparty_with_one_alarm(self, world: World) -> None:
        before = alarms("counterparty_refuses")
        world.counterparties.script(Action.ADJUST, UNAUTHORIZED, times=100)

        orders = [world.run(world.accept(str(user))) for user in range(3)]

        assert alarms("counterparty_refuses") == before + 1
        assert [order.error_code for order in orders] == ["unauthorized", "counterparty_paused", "counterparty_paused"]
        assert [order.attempts for order in orders] == [0, 0, 0]
        assert world.counterparties._faults[0].left == 99

    def test_is_probed_every_ten_seconds_and_the_probe_ends_the_pause(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, UNAUTHORIZED)
        clearing = world.run(world.accept())
        found = Standing.objects.get(pk="counter")
        assert found.probe_at is not None
        assert (found.refuses, (found.probe_at - found.changed_at).total_seconds()) == (True, 10)

        world.counterparties.script("status", UNAUTHORIZED)
        probe_is_due("counter")
        assert probe.probe_all(world.counterparties.gateways()) == 0
        probe_is_due("counter")
        assert probe.probe_all(world.counterparties.gateways()) == 1
        world.guard = a_worker()
        world.when_due(clearing)

        assert (clearing.state, breaker("counter")) == (State.CLEARED, Breaker.CLOSED)

    def test_a_counterparty_that_was_down_and_refuses_us_on_its_return_raises_that_alarm(self, world: World) -> None:
        fail(world.guard)
        before = alarms("counterparty_refuses")
        world.counterparties.script("status", FORBIDDEN, times=2)

        for _ in range(2):
            probe_is_due()
            probe.probe_all(world.counterparties.gateways())

        assert alarms("counterparty_refuses") == before + 1

    def test_one_whose_trial_is_refused_after_an_outage_raises_that_alarm(self, world: World) -> None:
        fail(world.guard)
        standing.half_open("fund", actor="test")
        before = alarms("counterparty_refuses")

        for _ in range(2):
            standing.open_breaker("fund", "forbidden", refuses=True, actor="test")
            standing.half_open("fund", actor="test")

        assert alarms("counterparty_refuses") == before + 1


class TestForbidden:
    def test_to_one_order_is_its_own_affair(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, FORBIDDEN)

        turned_away, other = world.run(world.accept("1")), world.run(world.accept("2"))

        assert (turned_away.state, turned_away.error_code, turned_away.attempts) == (State.RETRYING, "forbidden", 1)
        assert (other.state, breaker("counter")) == (State.CLEARED, Breaker.CLOSED)
        assert outcomes(turned_away) == [(1, "retryable", "forbidden")]  # not once more in place

    @pytest.mark.parametrize(("seconds_min", "ends"), [(0, State.PARKED), (600, State.RETRYING)])
    def test_again_and_again_and_for_long_parks_it(self, world: World, monkeypatch: pytest.MonkeyPatch, seconds_min: float, ends: State) -> None:
        monkeypatch.setattr(steps, "FORBIDDEN_SECONDS_MIN", seconds_min)
        clearing = world.accept("1")
        world.counterparties.script(Action.ADJUST, FORBIDDEN, times=FORBIDDEN_ATTEMPTS_MAX)

        world.run(clearing)
        for _ in range(FORBIDDEN_ATTEMPTS_MAX - 1):
            assert clearing.state == State.RETRYING
            world.when_due(clearing)

        assert (clearing.state, clearing.error_code, breaker("counter")) == (ends, "forbidden", Breaker.CLOSED)

    def test_questions_park_it_too_with_the_outcome_unknown(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(steps, "FORBIDDEN_SECONDS_MIN", 0)
        clearing = world.accept("1")
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.APPLY_THEN_RESET))
        world.counterparties.script("status", FORBIDDEN, times=FORBIDDEN_ATTEMPTS_MAX)

        world.run(clearing)
        for _ in range(FORBIDDEN_ATTEMPTS_MAX - 1):
            assert clearing.state == State.UNKNOWN
            world.when_due(clearing)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "forbidden")
        assert clearing.operations.get().state == "unknown"

    def test_in_a_trial_after_a_pause_it_is_nobody_s_own_affair(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, FORBIDDEN, times=3)
        for user in range(3):
            world.run(world.accept(str(user)))
        probe_is_due("counter")
        probe.probe_all(world.counterparties.gateways())
        world.guard = a_worker()  # which has seen none of the three
        world.counterparties.script(Action.ADJUST, FORBIDDEN)

        trial = world.run(world.accept("9"))

        assert (trial.error_code, trial.attempts, breaker("counter")) == ("forbidden", 0, Breaker.OPEN)

    def test_to_three_in_a_row_pauses_the_counterparty_with_one_alarm(self, world: World) -> None:
        before = alarms("counterparty_refuses")
        world.counterparties.script(Action.ADJUST, FORBIDDEN, times=100)

        orders = [world.run(world.accept(str(user))) for user in range(5)]

        assert alarms("counterparty_refuses") == before + 1
        assert [order.error_code for order in orders] == ["forbidden"] * 3 + ["counterparty_paused"] * 2
        assert [order.attempts for order in orders] == [1, 1, 0, 0, 0]

    def test_with_others_going_well_in_between_pauses_nobody(self, world: World) -> None:
        for user in range(4):
            world.counterparties.script(Action.ADJUST, FORBIDDEN)
            world.run(world.accept(f"bad-{user}"))
            assert world.run(world.accept(f"good-{user}")).state == State.CLEARED

        assert breaker("counter") == Breaker.CLOSED

    def test_is_not_disproved_by_questions_that_are_answered(self, world: World) -> None:
        worker = world.guard
        error = Retryable("forbidden")
        error.health = Health.FORBIDDING

        alone = []
        for number in range(3):
            worker.heard("fund", f"O{number}:2", None, time.monotonic(), asked=True)
            alone.append(worker.heard("fund", f"O{number}:2", error, time.monotonic()))

        assert alone == [True, True, False]


class TestPause:
    def test_of_one_step_drains_it_and_keeps_the_rest(self, world: World) -> None:
        standing.set_pause("trading", 3, paused=True, reason="their release", actor="ann")

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.step, clearing.error_code, clearing.attempts) == (State.RETRYING, 3, "counterparty_paused", 0)
        assert world.keys_applied(clearing) == ["1", "2"]

    def test_of_one_step_of_a_counterparty_leaves_its_other_one(self, world: World) -> None:
        standing.set_pause("fund", 4, paused=True, reason="their release", actor="ann")

        assert world.run(world.accept()).step == 4

    def test_costs_no_attempts_however_long_and_the_order_goes_on_at_once(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ATTEMPTS_MAX = 1
        standing.set_pause("fund", 0, paused=True, reason="their release", actor="ann")
        clearing = world.run(world.accept())
        for _ in range(3):
            make_due(clearing)
            assert sweep()["was_retrying"] == 0

        standing.set_pause("fund", 0, paused=False, reason="they are back", actor="bob")
        world.guard = a_worker()
        assert sweep()["was_retrying"] == 1
        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert [outcome for _, outcome, _ in outcomes(clearing)] == ["done"] * 4
        assert list(StandingChange.objects.order_by("id").values_list("change", "actor", "reason")) == [
            ("paused", "ann", "their release"),
            ("resumed", "bob", "they are back"),
        ]

    def test_a_person_who_was_late_changes_nothing(self, world: World) -> None:
        standing.set_pause("fund", 0, paused=True, reason="their release", actor="ann")

        assert not standing.set_pause("fund", 0, paused=True, reason="the same", actor="bob")
        assert StandingChange.objects.count() == 1

    def test_a_blocked_order_comes_due_within_a_second(self, world: World) -> None:
        standing.set_pause("fund", 0, paused=True, reason="their release", actor="ann")

        clearing = world.run(world.accept())

        assert clearing.due_at is not None
        assert (clearing.due_at - clearing.changed_at).total_seconds() <= 1


class TestRateLimit:
    @pytest.fixture
    def limited(self, world: World, settings: Settings) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.0, "fund": 20.0, "trading": 0.0}

    def test_holds_over_all_workers_together(self, world: World, limited: None) -> None:
        workers = [a_worker(), a_worker(), a_worker()]
        began, allowed = time.monotonic(), 0

        while allowed < 50 and time.monotonic() - began < 60:
            allowed += sum(blocked_by(worker) == "" for worker in workers)

        assert allowed >= 50
        assert time.monotonic() - began >= (50 - 10 - 3) / 20  # the bucket's come at once, and what goes beyond the fiftieth; the rest at the rate

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
        assert world.guard._leases["fund"].left < 0

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

        monkeypatch.setattr(standing, "lease_calls", slow)
        worker = a_worker()
        assert blocked_by(worker, "counter", 1) == ""
        first = threading.Thread(target=blocked_by, args=(worker,))
        first.start()
        leasing.wait(30)

        found = blocked_by(worker), blocked_by(worker, "trading", 3)

        assert (found, first.is_alive()) == (("counterparty_limited", ""), True)
        leave.set()
        first.join(30)

    def test_a_wish_for_quiet_is_everybodys(self, world: World) -> None:
        quiet = Fault(kind=FaultKind.STATUS, status=429, code="too_many_requests", latency_ms=60_000)
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
        standing.set_pause("fund", 0, paused=True, reason="to gather them", actor="test")
        clearings = [world.run(world.accept(str(user))) for user in range(8)]
        standing.set_pause("fund", 0, paused=False, reason="go", actor="test")
        world.guard = a_worker()
        make_due(*clearings)
        return clearings

    def test_all_of_them_when_the_counterparty_is_well(self, waiting: list[Clearing]) -> None:
        assert sweep()["was_retrying"] == 8

    def test_as_many_as_slots_are_free_when_it_is_full(self, waiting: list[Clearing], settings: Settings) -> None:
        settings.GATEWAY_CALLS_MAX = 3
        register_worker()
        standing.note_busy("fund")

        assert [sweep()["was_retrying"], sweep()["was_retrying"]] == [3, 0]

    def test_a_few_trials_when_it_may_be_back(self, waiting: list[Clearing]) -> None:
        standing.open_breaker("fund", "timeout", refuses=False, actor="test")
        standing.half_open("fund", actor="test")

        assert [sweep()["was_retrying"], sweep()["was_retrying"]] == [standing.TRIALS_MAX, 0]

    def test_what_a_rate_limit_allows(self, waiting: list[Clearing], settings: Settings) -> None:
        settings.COUNTERPARTY_RATES = {"counter": 0.0, "fund": 5.0, "trading": 0.0}

        assert sweep()["was_retrying"] == 5

    def test_the_others_are_not_held_up(self, world: World, waiting: list[Clearing]) -> None:
        world.counterparties.script(Action.EXCHANGE, UNREACHABLE, times=2)
        at_trading = world.run(world.accept("99"))
        make_due(at_trading)
        standing.set_pause("fund", 0, paused=True, reason="again", actor="test")

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
        assert standing.read().busy == {"counter"}
