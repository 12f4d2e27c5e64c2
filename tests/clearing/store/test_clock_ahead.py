"""The database's clock ran ahead for a while and was put right: what was written meanwhile waits no
longer for that.
"""

import time

import pytest

from base.clock import ServiceNow, shift_clock
from clearing.dispatch import publish
from clearing.gateways import Action, counterparty_state
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Attempt, Clearing
from clearing.policy.backoff import RETRY_AFTER_MS_MAX
from clearing.status import State
from clearing.store import claims, recovery
from tests.support.orders import World, interrupted

AHEAD = 3_600


@pytest.fixture(autouse=True)
def clock_ahead(world: World) -> None:
    """An hour; the counterparties' clocks with it, as they check our signatures' times."""
    world.counterparties.clock_ms = lambda: time.time_ns() // 1_000_000 + AHEAD * 1_000
    shift_clock(AHEAD)


class TestAnOrder:
    def test_that_failed_meanwhile_is_due(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
        clearing = world.run(world.accept())
        assert (clearing.state, interrupted()) == (State.UNKNOWN, [])

        shift_clock(0)

        assert interrupted() == [clearing.pk]
        assert [one.found for one in recovery.requeue([clearing.pk], actor="test", generation="")] == [State.UNKNOWN]

    def test_whose_claim_was_taken_meanwhile_is_taken_back(self, world: World) -> None:
        clearing = world.accept()
        assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert interrupted() == []

        shift_clock(0)

        assert interrupted() == [clearing.pk]
        assert [one.found for one in recovery.requeue([clearing.pk], actor="test", generation="")] == [State.RUNNING]
        assert not Attempt.objects.filter(sent_at__gt=ServiceNow()).exists()

    def test_that_was_queued_meanwhile_is_looked_after(self, world: World) -> None:
        clearing, generation = world.accept(), publish.generation()
        assert recovery.unclaimed(generation, gone_seconds=30, limit=10) == []

        shift_clock(0)

        assert [one.id for one in recovery.unclaimed(generation, gone_seconds=30, limit=10)] == [clearing.pk]

    def test_that_waits_for_long_by_a_policy_is_not_due(self, world: World) -> None:
        shift_clock(0)
        world.counterparties.clock_ms = lambda: time.time_ns() // 1_000_000
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
        clearing = world.run(world.accept())
        Clearing.objects.filter(pk=clearing.pk).update(due_at="2100-01-01T00:00:00Z")

        assert interrupted() == []
        assert recovery.requeue([clearing.pk], actor="test", generation="") == []


class TestACounterparty:
    def test_that_went_down_meanwhile_is_probed(self) -> None:
        counterparty_state.open_breaker("fund", "timeout", refuses=False, actor="test")
        assert counterparty_state.take_probes(6) == []

        shift_clock(0)

        assert [probe.counterparty for probe in counterparty_state.take_probes(6)] == ["fund"]

    def test_that_wanted_quiet_and_was_full_meanwhile_is_called(self) -> None:
        counterparty_state.note_quiet("fund", 60_000)
        counterparty_state.note_busy("fund")
        assert (set(counterparty_state.read().quiet_ms), set(counterparty_state.read().busy)) == ({"fund"}, {"fund"})

        shift_clock(0)

        assert (counterparty_state.read().quiet_ms, counterparty_state.read().busy) == ({}, frozenset())

    def test_is_not_called_before_its_present_retry_after(self) -> None:
        counterparty_state.note_quiet("fund", 60_000)
        shift_clock(0)

        counterparty_state.note_quiet("fund", RETRY_AFTER_MS_MAX)

        assert 0 < counterparty_state.read().quiet_ms["fund"] <= RETRY_AFTER_MS_MAX

    @pytest.mark.parametrize("shift", [0, -60])
    def test_keeps_its_rate_whatever_the_clock_did(self, shift: float) -> None:
        assert counterparty_state.lease_calls("fund", 100.0, 10) == (10, 0)

        shift_clock(shift)

        assert counterparty_state.lease_calls("fund", 100.0, 10) == (10, 0)
        assert counterparty_state.lease_calls("fund", 100.0, 1_000)[0] > 0
        assert counterparty_state.lease_calls("fund", 1.0, 10)[1] <= 1_000
