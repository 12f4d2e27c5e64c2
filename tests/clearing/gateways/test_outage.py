"""Orders of a counterparty that is down: they wait, it costs them nothing, and they are due as soon
as it is back.
"""

from datetime import timedelta

import pytest
from pytest_django import Settings

from base.clock import ServiceNow, shift_clock
from clearing.gateways import Action, counterparty_state
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Clearing, ErrorPolicy
from clearing.status import Breaker, OperationState, State
from ops.recovery import probe
from ops.recovery.sweep import sweep
from tests.clearing.outages import UNREACHABLE, a_worker, breaker, fail, make_due, probe_is_due
from tests.support.orders import World, operation, outcomes


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
        counterparty_state.open_breaker("fund", "connection_refused", refuses=False, actor="test")
        counterparty_state.half_open("fund", actor="test")
        counterparty_state.close("fund", actor="test")

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
        counterparty_state.open_breaker("fund", "connection_refused", refuses=False, actor="test")
        if breaker == Breaker.HALF_OPEN:
            counterparty_state.half_open("fund", actor="test")

        assert sweep()["brought_forward"] == 0

    def test_are_none_of_another_counterparty(self, world: World) -> None:
        self.waiting(world)
        counterparty_state.open_breaker("trading", "connection_refused", refuses=False, actor="test")
        counterparty_state.half_open("trading", actor="test")
        counterparty_state.close("trading", actor="test")

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
