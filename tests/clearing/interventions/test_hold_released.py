"""Two operators release a hold: the accepted contents remain valid, and the order goes on from
where it was.
"""

import pytest
from pytest_django import DjangoCaptureOnCommitCallbacks

from base.clock import shift_clock
from clearing.dispatch import broker
from clearing.dispatch.queues import lane_queue
from clearing.gateways import Action
from clearing.gateways.fake import FaultKind
from clearing.interventions.requests import approve, retry_by_hand
from clearing.status import OperationState, State
from clearing.store import claims
from clearing.store.interventions import NotPossible
from ops.recovery.sweep import sweep
from tests.clearing.people import BEN, K, asked, done_by_two, held, rejected, unknown
from tests.support.orders import World, operation


class TestReleaseOfAHold:
    def test_the_accepted_contents_stand_and_the_order_goes_on(self, world: World) -> None:
        clearing = done_by_two(held(world), K.RELEASE_HOLD)

        world.run(clearing)

        assert (clearing.state, clearing.hold_code, world.keys_applied(clearing)) == (State.CLEARED, "", ["1", "2", "3", "4"])

    def test_one_that_was_set_while_the_answer_was_on_its_way_parks_the_order_which_goes_on_from_there(self, world: World) -> None:
        clearing = unknown(world, Action.TRANSFER, FaultKind.APPLY_THEN_RESET)
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        with pytest.raises(NotPossible, match="once the order is parked"):
            asked(clearing, K.RELEASE_HOLD)
        clearing = world.when_due(clearing)
        assert (clearing.state, clearing.step) == (State.PARKED, 3)

        done_by_two(clearing, K.RELEASE_HOLD)
        world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])

    def test_an_operation_whose_outcome_is_not_known_is_reconciled_before_it_is_resent(self, world: World) -> None:
        clearing = unknown(world)
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        clearing = world.when_due(clearing)
        assert operation(clearing, 2).state == OperationState.UNKNOWN

        done_by_two(clearing, K.RELEASE_HOLD)
        world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])

    def test_an_order_that_was_rejected_too_stays_parked_for_that(self, world: World) -> None:
        clearing = rejected(world)
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        done_by_two(clearing, K.RELEASE_HOLD)

        assert (clearing.state, clearing.hold_code, clearing.error_code) == (State.PARKED, "", "insufficient_funds")
        retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up")
        assert world.run(clearing).state == State.CLEARED

    def test_it_is_published(self, world: World, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks) -> None:
        clearing = held(world)
        pk = asked(clearing, K.RELEASE_HOLD)

        with django_capture_on_commit_callbacks(execute=True):
            approve(pk, operator=BEN)

        assert broker.length(lane_queue(clearing.lane)) == 1

    def test_what_was_not_published_because_we_died_is_sent_by_the_sweep(self, world: World) -> None:
        broker.read_generation()
        clearing = done_by_two(held(world), K.RELEASE_HOLD, later=0)
        assert (clearing.state, broker.length(lane_queue(clearing.lane))) == (State.QUEUED, 0)
        shift_clock(3)

        sweep()

        assert broker.length(lane_queue(clearing.lane)) == 1

    def test_it_waits_in_its_lane_while_its_users_next_one_runs(self, world: World) -> None:
        clearing, following = held(world), world.accept()
        claims.claim(following.pk, following.epoch, worker=lambda: "w", gives_up=lambda: True)

        done_by_two(clearing, K.RELEASE_HOLD)

        assert clearing.state == State.WAITING
