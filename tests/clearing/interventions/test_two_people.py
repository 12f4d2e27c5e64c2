"""Interventions that one operator requests and another approves, and what happens between; a retry,
which needs one person, is kept too.
"""

import pytest
from django.db import IntegrityError, transaction
from pytest_django import Settings

from base.clock import shift_clock
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import approve, refuse, request_approval, retry_by_hand
from clearing.models import Intervention
from clearing.status import InterventionState, OperationState, State
from clearing.store import claims
from clearing.store.interventions import NotPossible, Operator
from ops.recovery.sweep import sweep
from tests.clearing.people import ANN, BEN, LATER, REASON, K, asked, done_by_two, held, rejected, unknown
from tests.support.orders import World, operation


class TestTwoPeople:
    def test_who_asked_can_not_approve(self, world: World) -> None:
        clearing = held(world)
        pk = asked(clearing, K.RELEASE_HOLD)

        with pytest.raises(NotPossible, match="can't approve"):
            approve(pk, operator=ANN)

        clearing.refresh_from_db()
        assert (clearing.state, Intervention.objects.get().state) == (State.PARKED, InterventionState.REQUESTED)

    def test_not_even_under_another_name(self, world: World) -> None:
        pk = asked(held(world), K.RELEASE_HOLD)

        with pytest.raises(NotPossible, match="can't approve"):
            approve(pk, operator=Operator("ann-renamed", ANN.id))

    def test_the_database_refuses_one_person_too(self, world: World) -> None:
        pk = asked(held(world), K.RELEASE_HOLD)

        with pytest.raises(IntegrityError, match="two_people"), transaction.atomic():
            Intervention.objects.filter(pk=pk).update(state=InterventionState.EXECUTED, decided_by="ann")

    def test_both_and_the_reason_stand_in_the_history(self, world: World) -> None:
        clearing = done_by_two(held(world), K.RELEASE_HOLD)

        change = clearing.history.get(from_state=State.PARKED)
        assert (change.to_state, change.actor, change.reason) == (State.WAITING, "ann, approved by ben", REASON)

    def test_it_expires(self, world: World) -> None:
        clearing = held(world)
        pk = asked(clearing, K.RELEASE_HOLD)
        shift_clock(25 * 3600)

        with pytest.raises(NotPossible, match="in time"):
            approve(pk, operator=BEN)

        clearing.refresh_from_db()
        assert (clearing.state, Intervention.objects.get().state) == (State.PARKED, InterventionState.EXPIRED)

    def test_the_sweep_ends_what_has_expired(self, world: World) -> None:
        asked(held(world), K.RELEASE_HOLD)
        shift_clock(25 * 3600)

        counts = sweep()

        assert (counts["expired"], Intervention.objects.get().state) == (1, InterventionState.EXPIRED)

    def test_a_refused_one_does_nothing_and_makes_room_for_another(self, world: World) -> None:
        clearing = held(world)
        pk = asked(clearing, K.RELEASE_HOLD)
        refuse(pk, operator=BEN, reason="their message is right, ours is wrong")

        with pytest.raises(NotPossible, match="decided"):
            approve(pk, operator=BEN)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.hold_code) == (State.PARKED, "contents_differ")
        assert asked(clearing, K.VOID)

    def test_only_one_waits_for_an_order(self, world: World) -> None:
        clearing = held(world)
        asked(clearing, K.RELEASE_HOLD)

        with pytest.raises(NotPossible, match="waits for approval"):
            asked(clearing, K.VOID)

    def test_one_that_was_overtaken_does_not_stand_in_the_way(self, world: World) -> None:
        clearing = rejected(world)
        overtaken = asked(clearing, K.VOID)
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
        retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up")
        world.run(clearing)

        asked(clearing, K.VOID)

        assert Intervention.objects.get(pk=overtaken).state == InterventionState.FAILED

    @pytest.mark.parametrize("reason", ["", "  "])
    def test_without_a_reason_nothing_is_asked_for(self, world: World, reason: str) -> None:
        with pytest.raises(NotPossible, match="reason"):
            request_approval(held(world).pk, K.RELEASE_HOLD, operator=ANN, reason=reason)


class TestMeanwhile:
    def test_a_retry_in_between_makes_it_fail(self, world: World) -> None:
        clearing = rejected(world)
        pk = asked(clearing, K.VOID)
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
        retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up")
        world.run(clearing)
        assert clearing.state == State.PARKED

        with pytest.raises(NotPossible, match="changed"):
            approve(pk, operator=BEN)

        clearing.refresh_from_db()
        failed = Intervention.objects.get(pk=pk)
        assert (clearing.state, failed.state) == (State.PARKED, InterventionState.FAILED)
        assert "parked at step 2" in failed.outcome

    def test_another_hold_in_between_makes_a_release_fail(self, world: World) -> None:
        clearing = held(world)
        pk = asked(clearing, K.RELEASE_HOLD)
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        with pytest.raises(NotPossible, match="changed"):
            approve(pk, operator=BEN)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.hold_code) == (State.PARKED, "contents_differ")

    def test_a_retry_of_what_was_confirmed_meanwhile_is_refused(self, world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = unknown(world)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)
        shift_clock(LATER)

        def confirmed_first(*_: object) -> None:
            approve(pk, operator=BEN)

        monkeypatch.setattr("clearing.interventions.requests.require", confirmed_first)
        with pytest.raises(NotPossible, match="changed"):
            retry_by_hand(clearing.pk, actor="cleo", reason="again")

        clearing.refresh_from_db()
        assert (clearing.state, operation(clearing, 2).state) == (State.PARKED, OperationState.REJECTED)


class TestRetryIsKept:
    def test_as_an_intervention_too(self, world: World) -> None:
        clearing = rejected(world)

        retry_by_hand(clearing.pk, actor="ann", actor_id=1, reason="it was topped up")

        kept = Intervention.objects.get()
        assert (kept.kind, kept.state, kept.asked_by, kept.reason) == (K.RETRY, InterventionState.EXECUTED, "ann", "it was topped up")
        assert kept.outcome.endswith(":2:r1")
