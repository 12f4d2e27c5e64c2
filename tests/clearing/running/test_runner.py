"""One clearing, run by a worker against counterparties in memory: what goes well, what comes in
between (a stop, a lost claim, a hold), and what is counted.
"""

from decimal import Decimal

import pytest
from pytest_django import Settings

from base.clock import shift_clock
from clearing.dispatch import broker, publish
from clearing.dispatch.queues import RESUME_QUEUE, lane_queue
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Attempt, Clearing
from clearing.status import OperationState, State
from clearing.store import claims, recovery
from ops.recovery.sweep import sweep
from tests.simulation.attempts import counted
from tests.support.orders import World, history, interrupted, operation, outcomes

TIMEOUT = Fault(kind=FaultKind.APPLY_THEN_TIMEOUT)
RESET = Fault(kind=FaultKind.RESET)
UNREACHABLE = Fault(kind=FaultKind.UNREACHABLE)


class TestGoodRun:
    @pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
    @pytest.mark.parametrize("asset", ["BTC", "ETH"])
    def test_four_steps_are_done_once_each_in_order(self, world: World, direction: str, asset: str) -> None:
        clearing = world.run(world.accept(direction=direction, asset=asset))

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_every_change_stands_in_the_history(self, world: World) -> None:
        clearing = world.run(world.accept())

        assert history(clearing) == [
            ("", "waiting", 1),
            ("waiting", "queued", 1),
            ("queued", "running", 1),
            ("running", "running", 2),
            ("running", "running", 3),
            ("running", "running", 4),
            ("running", "cleared", 4),
        ]
        assert outcomes(clearing) == [(1, "done", ""), (2, "done", ""), (3, "done", ""), (4, "done", "")]

    def test_slippage_is_stored(self, world: World) -> None:
        world.counterparties.prices["BTC"] = Decimal(61_000)

        clearing = world.run(world.accept())

        assert clearing.slippage_usdt == Decimal("-49.18080000")
        assert (clearing.surplus, clearing.dust) == (Decimal("-0.00081968"), Decimal(0))

    def test_the_users_next_order_runs_in_place(self, world: World) -> None:
        first, second = world.accept(), world.accept()

        world.run(first)

        second.refresh_from_db()
        assert second.state == State.CLEARED
        assert [effect.order_id for effect in world.counterparties.applied] == [first.order.order_id] * 4 + [second.order.order_id] * 4

    def test_a_message_that_comes_again_changes_nothing(self, world: World) -> None:
        clearing = world.accept()
        world.run(clearing)

        world.runner().run(clearing.pk, 1)

        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_a_message_of_an_older_epoch_changes_nothing(self, world: World) -> None:
        clearing = world.accept()

        world.runner().run(clearing.pk, clearing.epoch - 1)

        clearing.refresh_from_db()
        assert clearing.state == State.QUEUED


class TestPlainChain:
    def test_each_step_goes_through_the_broker(self, world: World, settings: Settings) -> None:
        settings.CLEARING_RUN_STEPS_INLINE = False
        clearing = world.accept()

        world.run(clearing)

        assert (clearing.state, clearing.step) == (State.QUEUED, 2)
        assert broker.length(lane_queue(clearing.lane)) == 1

    def test_it_clears_like_the_other(self, world: World, settings: Settings) -> None:
        settings.CLEARING_RUN_STEPS_INLINE = False
        clearing = world.accept()

        for _ in range(4):
            world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]


class TestStopping:
    def test_the_rest_of_the_chain_goes_to_the_resume_queue(self, world: World) -> None:
        clearing = world.accept()
        world.stopping = lambda: len(world.counterparties.applied) >= 2

        world.run(clearing)

        assert (clearing.state, clearing.step) == (State.QUEUED, 3)
        assert broker.length(RESUME_QUEUE) == 1

    def test_the_users_next_order_is_published_instead_of_run(self, world: World) -> None:
        first, second = world.accept(), world.accept()
        world.stopping = lambda: len(world.counterparties.applied) >= 4

        world.run(first)

        second.refresh_from_db()
        assert (first.state, second.state) == (State.CLEARED, State.QUEUED)
        assert broker.length(RESUME_QUEUE) == 1


class TestLostClaim:
    def test_the_taken_over_operation_is_reconciled_before_it_is_resent(self, world: World) -> None:
        clearing = world.accept()
        dead = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead-worker", gives_up=lambda: True)
        assert dead is not None
        world.counterparties.gateways().perform(dead.stored, dead.clock)  # and then it died

        world.when_due(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert outcomes(clearing)[:2] == [(1, "lost", "claim_lost"), (1, "?done", "")]

    def test_what_the_dead_worker_never_sent_is_sent(self, world: World) -> None:
        clearing = world.accept()
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead-worker", gives_up=lambda: True)

        world.when_due(clearing)

        assert clearing.state == State.CLEARED
        assert outcomes(clearing)[:3] == [(1, "lost", "claim_lost"), (1, "?retryable", "unknown_key"), (1, "done", "")]

    def test_a_claim_that_has_not_expired_is_left_alone(self, world: World) -> None:
        clearing = world.accept()
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "slow-worker", gives_up=lambda: True)

        assert interrupted() == []
        assert recovery.requeue([clearing.pk], actor="sweep", generation="") == []

    def test_who_lost_the_claim_changes_nothing_but_adds_evidence(self, world: World) -> None:
        clearing = world.accept()
        slow = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "slow-worker", gives_up=lambda: True)
        assert slow is not None
        shift_clock(60)
        recovery.requeue([clearing.pk], actor="sweep", generation="")
        shift_clock(0)

        recorded = world.runner()._run_operation(slow)

        clearing.refresh_from_db()
        assert recorded.outcome == "lost"
        assert (clearing.state, clearing.step) == (State.QUEUED, 1)
        assert outcomes(clearing) == [(1, "lost", "claim_lost"), (1, "done", "")]

    def test_nothing_is_signed_after_the_claims_end(self, world: World, settings: Settings) -> None:
        settings.CLEARING_CLAIM_SECONDS = 0.0
        clearing = world.accept()

        world.run(clearing)

        assert clearing.state == State.RUNNING
        assert world.keys_applied(clearing) == []
        assert outcomes(clearing) == []


class TestHold:
    def test_an_order_that_has_not_started_parks_at_once(self, world: World) -> None:
        running, waiting = world.accept(), world.accept()

        claims.hold(waiting.order.order_id, "contents_differ", actor="test", generation="")
        claims.hold(running.order.order_id, "contents_differ", actor="test", generation="")

        states = set(Clearing.objects.values_list("state", "error_code"))
        assert states == {(State.PARKED, "contents_differ")}

    def test_a_running_one_parks_before_its_next_step(self, world: World) -> None:
        clearing, following = world.accept(), world.accept()
        work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        recorded = world.runner()._run_operation(work)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.step, clearing.error_code) == (State.PARKED, 2, "contents_differ")
        assert operation(clearing, 2).state == OperationState.PLANNED
        assert recorded.next is not None
        assert recorded.next.id == following.pk

    def test_one_that_is_retrying_parks(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=2)
        clearing = world.run(world.accept())

        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        clearing.refresh_from_db()
        assert clearing.state == State.PARKED

    def test_one_whose_outcome_is_unknown_parks_only_when_it_is_known(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, TIMEOUT)
        clearing = world.run(world.accept())

        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        world.when_due(clearing)

        assert (clearing.state, clearing.step) == (State.PARKED, 2)
        assert world.keys_applied(clearing) == ["1"]

    def test_a_cleared_one_stays_cleared(self, world: World) -> None:
        clearing = world.run(world.accept())

        found, _ = claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        clearing.refresh_from_db()
        assert (found, clearing.state) == (State.CLEARED, State.CLEARED)

    def test_an_order_that_nobody_knows_is_said_to_be_unknown(self, world: World) -> None:
        assert claims.hold("nobody", "x", actor="test", generation=publish.generation()) == (None, None)


class TestMetricOfAttempts:
    def test_counts_every_row_also_a_query_and_a_failure_that_is_repeated_in_place(self, world: World) -> None:
        before = counted()
        world.counterparties.script(Action.ADJUST, UNREACHABLE)
        world.counterparties.script(Action.TRANSFER, RESET)
        clearing = world.run(world.accept())
        world.when_due(clearing)

        assert outcomes(clearing) == [
            (1, "retryable", "connection_refused"),
            (1, "done", ""),
            (2, "unknown", "connection_lost"),
            (2, "?retryable", "unknown_key"),
            (2, "done", ""),
            (3, "done", ""),
            (4, "done", ""),
        ]
        assert counted() - before == Attempt.objects.count()

    def test_counts_what_the_sweep_finds_lost(self, world: World) -> None:
        before = counted()
        clearing = world.accept()
        assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
        Clearing.objects.filter(pk=clearing.pk).update(claimed_until="2020-01-01T00:00:00Z")

        sweep()

        assert outcomes(clearing) == [(1, "lost", "claim_lost")]
        assert counted() - before == 1
