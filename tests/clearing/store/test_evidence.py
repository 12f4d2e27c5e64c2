"""Evidence over a whole operation (design, rules 4, 5 and 7): what a dead worker may have sent,
whose key it is, and which step may come.
"""

import pytest

from base import metrics
from clearing.gateways import Action, Counterparty, Done, Gateways, Result, SigningClock, StoredRequest
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Clearing, Operation
from clearing.status import OperationState, State
from clearing.store import claims
from clearing.store.claims import Work
from tests.support.orders import World, operation, outcomes

UNREACHABLE = Fault(kind=FaultKind.UNREACHABLE)


def claimed_by_one_that_dies(clearing: Clearing) -> Work:
    work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead-worker", gives_up=lambda: True)
    assert work is not None
    return work


class TestSentByAWorkerThatDied:
    def test_and_then_refused_is_not_surely_not_applied(self, world: World) -> None:
        clearing = world.accept()
        claimed_by_one_that_dies(clearing)
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=2)

        world.when_due(clearing)

        assert outcomes(clearing)[0] == (1, "lost", "claim_lost")
        assert (clearing.state, operation(clearing, 1).state) == (State.UNKNOWN, OperationState.UNKNOWN)

    def test_its_effect_is_found_although_the_counterparty_was_away_in_between(self, world: World) -> None:
        clearing = world.accept()
        work = claimed_by_one_that_dies(clearing)
        world.counterparties.gateways().perform(work.stored, work.clock)
        world.counterparties.script("*", UNREACHABLE, times=1)

        world.when_due(clearing)
        assert clearing.state == State.UNKNOWN
        world.when_due(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]


class TestKeyThatBelongsToOtherBytes:
    def test_parks_the_order_with_an_alarm_of_its_own(self, world: World) -> None:
        clearing = world.accept()
        stored = operation(clearing, 1)
        other = bytes(stored.request).replace(b'"quantity":"0.05"', b'"quantity":"0.06"')
        assert other != bytes(stored.request)
        before = metrics.REGISTRY.get_sample_value("acceptance_alarms_total", {"code": "key_reused"}) or 0
        clock = claim_clock(world)
        world.counterparties.gateways().perform(StoredRequest(Counterparty.COUNTER, Action.ADJUST, stored.key, other), clock)

        world.run(clearing)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "key_reused")
        assert operation(clearing, 1).state == OperationState.UNKNOWN
        assert metrics.REGISTRY.get_sample_value("acceptance_alarms_total", {"code": "key_reused"}) == before + 1
        assert len(world.counterparties.applied) == 1


def claim_clock(world: World) -> SigningClock:
    """A clock to sign with, of another order's claim."""
    return claimed_by_one_that_dies(world.accept("another user")).clock


class TestNoStepBeforeTheOneBefore:
    @pytest.mark.parametrize("action", list(Action))
    @pytest.mark.parametrize(
        "kind",
        [FaultKind.RESET, FaultKind.APPLY_THEN_TIMEOUT, FaultKind.GARBAGE, FaultKind.IN_PROGRESS, FaultKind.UNREACHABLE, FaultKind.APPLY_THEN_5XX],
    )
    def test_is_ever_sent(self, world: World, monkeypatch: pytest.MonkeyPatch, action: Action, kind: FaultKind) -> None:
        early: list[str] = []
        perform = Gateways.perform

        def watched(self: Gateways, stored: StoredRequest, clock: SigningClock) -> Done[Result]:
            own = Operation.objects.get(key=stored.key)
            earlier = Operation.objects.filter(clearing_id=own.clearing_id, step__lt=own.step)
            if earlier.exclude(state=OperationState.DONE).exists() or earlier.count() != own.step - 1:
                early.append(stored.key)
            return perform(self, stored, clock)

        monkeypatch.setattr(Gateways, "perform", watched)
        world.counterparties.script(action, Fault(kind=kind, latency_ms=1), times=3)
        clearing = world.run(world.accept())

        for _ in range(8):
            if clearing.state != State.CLEARED:
                world.when_due(clearing)

        assert early == []
        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])
