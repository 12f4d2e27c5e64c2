"""The plain retry by one operator."""

from decimal import Decimal

import pytest
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from clearing.dispatch import broker
from clearing.dispatch.queues import lane_queue
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing
from clearing.status import State
from clearing.store import claims
from clearing.store.interventions import NotPossible
from tests.support.orders import World, history

UNREACHABLE = Fault(kind=FaultKind.UNREACHABLE)


def parked(world: World, action: Action = Action.TRANSFER) -> Clearing:
    world.counterparties.script(action, Fault(kind=FaultKind.REFUSE))
    return world.run(world.accept())


class TestRetry:
    def test_a_rejected_step_is_sent_with_the_keys_next_revision(self, world: World) -> None:
        order = parked(world)

        retry_by_hand(order.pk, actor="ann", reason="funds were topped up")
        world.run(order)

        assert order.state == State.CLEARED
        assert world.keys_applied(order) == ["1", "2:r1", "3", "4"]

    def test_who_and_why_stand_in_the_history(self, world: World) -> None:
        order = parked(world)

        retry_by_hand(order.pk, actor="ann", reason="funds were topped up")

        change = order.history.get(from_state="parked")
        assert (change.to_state, change.actor, change.reason) == ("waiting", "ann", "funds were topped up")

    def test_used_up_attempts_begin_again_with_the_same_bytes(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ATTEMPTS_MAX = 1
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=2)
        order = world.run(world.accept())
        assert order.state == State.PARKED

        retry_by_hand(order.pk, actor="ann", reason="counter is back")
        world.run(order)

        assert world.keys_applied(order) == ["1", "2", "3", "4"]

    def test_a_partial_execution_gets_a_further_part(self, world: World) -> None:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")), times=3)
        order = world.run(world.accept())

        retry_by_hand(order.pk, actor="ann", reason="the market is deep again")
        world.run(order)

        assert order.state == State.CLEARED
        assert world.keys_applied(order) == ["1", "2", "3", "3.2", "3.3", "3.4", "4"]

    def test_a_retrying_order_runs_at_once_and_is_published(
        self, world: World, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=2)
        order = world.run(world.accept())

        with django_capture_on_commit_callbacks(execute=True):
            retry_by_hand(order.pk, actor="ann", reason="counter is back")

        order.refresh_from_db()
        assert order.state == State.QUEUED
        assert history(order)[-1] == ("retrying", "queued", 1)
        assert broker.length(lane_queue(order.lane)) == 1

    def test_it_waits_while_its_users_next_one_runs(self, world: World) -> None:
        order = parked(world)
        running = world.accept()
        claims.claim(running.pk, running.epoch, worker=lambda: "w", gives_up=lambda: True)

        retry_by_hand(order.pk, actor="ann", reason="again")

        order.refresh_from_db()
        assert order.state == State.WAITING


class TestRefusal:
    @pytest.mark.parametrize("reason", ["", "  "])
    def test_without_a_reason_there_is_no_retry(self, world: World, reason: str) -> None:
        with pytest.raises(NotPossible, match="reason"):
            retry_by_hand(parked(world).pk, actor="ann", reason=reason)

    def test_what_is_cleared_is_not_retried(self, world: World) -> None:
        order = world.run(world.accept())

        with pytest.raises(NotPossible, match="cleared"):
            retry_by_hand(order.pk, actor="ann", reason="again")

    def test_a_hold_is_not_ended_by_a_retry(self, world: World) -> None:
        order = world.accept()
        claims.hold(order.order.order_id, "contents_differ", actor="test", generation="")

        with pytest.raises(NotPossible, match="contents_differ"):
            retry_by_hand(order.pk, actor="ann", reason="again")

    def test_an_expired_key_is_not_sent_again(self, world: World, settings: Settings) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
        order = world.run(world.accept())
        settings.KEY_RETENTION_SECONDS = -1
        world.when_due(order)

        with pytest.raises(NotPossible, match="twice"):
            retry_by_hand(order.pk, actor="ann", reason="again")

    def test_a_key_known_with_other_bytes_is_not_sent_again(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.STATUS, status=422, code="key_reused"))
        order = world.run(world.accept())

        with pytest.raises(NotPossible, match="other contents than ours"):
            retry_by_hand(order.pk, actor="ann", reason="again")

    def test_a_change_in_the_meantime_wins(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        order = parked(world)
        monkeypatch.setattr("clearing.interventions.requests.require", retry_meanwhile)

        with pytest.raises(NotPossible, match="changed"):
            retry_by_hand(order.pk, actor="ann", reason="again")


def retry_meanwhile(*_: object) -> None:
    Clearing.objects.update(state=State.WAITING)
