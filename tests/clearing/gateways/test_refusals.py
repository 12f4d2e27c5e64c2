"""A counterparty that refuses us: our signature at all, or one order what it allows to others."""

from collections.abc import Callable

import pytest

from clearing.gateways import Action, Retryable, counterparty_state
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import CounterpartyState
from clearing.policy.outcomes import Health
from clearing.running import runner
from clearing.running.runner import FORBIDDEN_ATTEMPTS_MAX
from clearing.status import Breaker, State
from ops.recovery import probe
from tests.clearing.outages import FORBIDDEN, UNAUTHORIZED, UNREACHABLE, a_worker, alarms, breaker, fail, probe_is_due
from tests.support.orders import World, outcomes


def refuse(world: World) -> Callable[[tuple[str, str]], bool]:
    """Calls of (user, key) that are refused: says whether only that order is meant."""
    error = Retryable("unauthorized")
    error.health = Health.FORBIDDING

    def call(whose: tuple[str, str]) -> bool:
        user, key = whose
        with world.guard.admit("fund", 2, key, user=user) as permit:
            return permit.record(error)

    return call


class TestRefusedSignature:
    def test_of_one_order_stops_nobody_else(self, world: World) -> None:
        """A proxy in between that changes the path of this order's calls, for example."""
        before = alarms("counterparty_refuses")
        turned_away = world.accept("1")
        world.counterparties.script("*", UNAUTHORIZED, times=100, match=turned_away.order.order_id)

        for _ in range(4):
            world.when_due(turned_away)
            assert probe.probe_all(world.counterparties.gateways()) <= 1
            assert world.run(world.accept()).state == State.CLEARED

        assert (turned_away.state, turned_away.error_code, turned_away.attempts) == (State.RETRYING, "unauthorized", 4)
        assert (breaker("counter"), alarms("counterparty_refuses")) == (Breaker.CLOSED, before)

    def test_of_one_user_is_not_taken_for_everybodys(self, world: World) -> None:
        calls = [("1", f"O{number}:2") for number in range(4)]

        assert list(map(refuse(world), calls)) == [True] * 4
        assert breaker("fund") == Breaker.CLOSED

    def test_of_three_users_pauses_the_counterparty_with_one_alarm(self, world: World) -> None:
        before = alarms("counterparty_refuses")
        world.counterparties.script(Action.ADJUST, UNAUTHORIZED, times=100)

        orders = [world.run(world.accept(str(user))) for user in range(5)]

        assert alarms("counterparty_refuses") == before + 1
        assert [order.error_code for order in orders] == ["unauthorized"] * 3 + ["counterparty_paused"] * 2
        assert [order.attempts for order in orders] == [1, 1, 0, 0, 0]

    def test_of_one_order_and_of_the_probe_pauses_the_counterparty(self, world: World) -> None:
        before = alarms("counterparty_refuses")
        world.counterparties.script(Action.ADJUST, UNAUTHORIZED)
        world.counterparties.script("status", UNAUTHORIZED)

        first = world.run(world.accept("1"))
        probe.probe_all(world.counterparties.gateways())
        world.guard = a_worker()
        second = world.run(world.accept("2"))

        assert [first.error_code, second.error_code] == ["unauthorized", "counterparty_paused"]
        assert (CounterpartyState.objects.get(pk="counter").refuses, alarms("counterparty_refuses")) == (True, before + 1)

    @pytest.mark.parametrize("answers", [(), (FORBIDDEN,), (UNREACHABLE,)])
    def test_of_one_order_is_probed_once(self, world: World, answers: tuple[Fault, ...]) -> None:
        world.counterparties.script(Action.ADJUST, UNAUTHORIZED)
        for answer in answers:
            world.counterparties.script("status", answer)
        world.run(world.accept("1"))

        probe.probe_all(world.counterparties.gateways())

        found = CounterpartyState.objects.get(pk="counter")
        assert (found.breaker, found.probe_at is None) == ((Breaker.OPEN, False) if answers == (FORBIDDEN,) else (Breaker.CLOSED, True))
        assert counterparty_state.take_probes(6) == []

    def test_is_probed_every_ten_seconds_and_the_probe_ends_the_pause(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, UNAUTHORIZED)
        world.counterparties.script("status", UNAUTHORIZED)
        clearing = world.run(world.accept())
        probe.probe_all(world.counterparties.gateways())
        found = CounterpartyState.objects.get(pk="counter")
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
        counterparty_state.half_open("fund", actor="test")
        before = alarms("counterparty_refuses")

        for _ in range(2):
            counterparty_state.open_breaker("fund", "forbidden", refuses=True, actor="test")
            counterparty_state.half_open("fund", actor="test")

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
        monkeypatch.setattr(runner, "FORBIDDEN_SECONDS_MIN", seconds_min)
        clearing = world.accept("1")
        world.counterparties.script(Action.ADJUST, FORBIDDEN, times=FORBIDDEN_ATTEMPTS_MAX)

        world.run(clearing)
        for _ in range(FORBIDDEN_ATTEMPTS_MAX - 1):
            assert clearing.state == State.RETRYING
            world.when_due(clearing)

        assert (clearing.state, clearing.error_code, breaker("counter")) == (ends, "forbidden", Breaker.CLOSED)

    def test_questions_park_it_too_with_the_outcome_unknown(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runner, "FORBIDDEN_SECONDS_MIN", 0)
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

        only_this_order = []
        for number in range(3):
            with worker.admit("fund", 2, f"O{number}:2", is_query=True) as permit:
                permit.record(None)
            with worker.admit("fund", 2, f"O{number}:2") as permit:
                only_this_order.append(permit.record(error))

        assert only_this_order == [True, True, False]
