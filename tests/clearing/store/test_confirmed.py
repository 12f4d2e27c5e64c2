"""A step whose outcome nobody knows: two people confirm from outside evidence that it was done, or
that it was not.
"""

from decimal import Decimal

import msgspec
import pytest
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from base.clock import shift_clock
from clearing.dispatch import broker
from clearing.dispatch.queues import lane_queue
from clearing.flow.amounts import ZERO
from clearing.flow.fills import Residue
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import approve, retry_by_hand
from clearing.models import Attempt, Clearing, Intervention
from clearing.status import InterventionState, OperationState, State
from clearing.store import claims, interventions
from clearing.store.interventions import NotPossible, OutsideEvidence
from ops.recovery.sweep import sweep
from tests.clearing.people import BEN, LATER, REASON, K, asked, done_by_two, expired_key, late_answer, rejected, unknown
from tests.support.orders import World, history, operation


def confirmed_to_the_end(world: World) -> Clearing:
    """Queued: people confirmed its last step, and a worker clears it when it comes to it."""
    world.stopping = lambda: len(world.counterparties.applied) >= 3
    clearing = world.run(world.accept())
    world.stopping = lambda: False
    world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
    world.run(clearing)
    assert (clearing.state, clearing.step) == (State.PARKED, 4)
    requested = msgspec.json.decode(bytes(operation(clearing, 4).request))["amount"]
    done_by_two(clearing, K.CONFIRM_DONE, OutsideEvidence("phone-17", amount=Decimal(requested)))
    assert clearing.state == State.QUEUED
    return clearing


class TestConfirmedAsDone:
    def test_a_transfer_goes_on_with_the_next_step(self, world: World, settings: Settings) -> None:
        clearing = expired_key(world, settings)
        evidence = OutsideEvidence("phone-17", amount=Decimal(3000), document="call of 10:32")

        done_by_two(clearing, K.CONFIRM_DONE, evidence)
        world.run(clearing)

        answer = msgspec.json.decode(bytes(operation(clearing, 2).response or b""))
        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "3", "4"])
        assert (answer["reference"], answer["amount"], answer["confirmed_by_intervention"]) == ("phone-17", "3000", Intervention.objects.get().pk)

    def test_an_exchange_needs_what_was_sold_and_bought_and_its_result_counts(self, world: World, settings: Settings) -> None:
        clearing = expired_key(world, settings, action=Action.EXCHANGE)
        evidence = OutsideEvidence("phone-17", amount=Decimal(3000), bought=Decimal("0.051"))

        done_by_two(clearing, K.CONFIRM_DONE, evidence)
        world.run(clearing)

        transfer = msgspec.json.decode(bytes(operation(clearing, 4).request))
        assert (clearing.state, transfer["amount"], clearing.slippage_usdt) == (State.CLEARED, "0.051", Decimal(60))

    def test_a_partial_one_is_followed_by_a_further_part(self, world: World, settings: Settings) -> None:
        clearing = expired_key(world, settings, action=Action.EXCHANGE)
        evidence = OutsideEvidence("phone-17", amount=Decimal(1000), bought=Decimal("0.01666666"), min_lot=Decimal(1))

        done_by_two(clearing, K.CONFIRM_DONE, evidence)
        world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3.2", "4"])

    @pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
    def test_the_last_step_clears_the_order_in_its_lanes_turn_with_its_slippage(self, world: World, settings: Settings, direction: str) -> None:
        settings.CLEARING_NEXT_IN_PLACE_MAX = 1
        world.stopping = lambda: len(world.counterparties.applied) >= 3
        clearing, following = world.accept(direction=direction), world.accept()
        world.run(clearing)
        world.stopping = lambda: False
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
        clearing = world.run(clearing)
        assert (clearing.state, clearing.step) == (State.PARKED, 4)
        requested = msgspec.json.decode(bytes(operation(clearing, 4).request))["amount"]

        done_by_two(clearing, K.CONFIRM_DONE, OutsideEvidence("phone-17", amount=Decimal(requested)))
        assert clearing.state == State.WAITING
        world.run(following)
        world.run(clearing)

        assert (clearing.state, clearing.slippage_usdt) == (State.CLEARED, Decimal(0))
        assert [change[:2] for change in history(clearing)[-4:]] == [
            ("parked", "waiting"),
            ("waiting", "queued"),
            ("queued", "running"),
            ("running", "cleared"),
        ]
        assert not Attempt.objects.filter(operation=operation(clearing, 4), outcome="done").exists()

    def test_an_internal_error_at_its_end_parks_the_order_and_a_retry_of_the_mended_release_clears_it(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clearing = confirmed_to_the_end(world)
        with monkeypatch.context() as patched:
            patched.setattr("clearing.running.runner.after", lambda *_, **__: 1 / 0)
            world.run(clearing)
        assert (clearing.state, clearing.error_code, operation(clearing, 4).state) == (State.PARKED, "internal_error", OperationState.DONE)
        assert history(clearing)[-1] == ("running", "parked", 4)

        retry_by_hand(clearing.pk, actor="cleo", reason="the release was mended")
        world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3"])

    def test_which_raises_the_alarm_once_and_lets_the_users_next_order_go_on(
        self, world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.CLEARING_NEXT_IN_PLACE_MAX = 1
        clearing, following = confirmed_to_the_end(world), world.accept()
        alarms = []
        monkeypatch.setattr("clearing.running.runner.after", lambda *_, **__: 1 / 0)
        monkeypatch.setattr("clearing.running.runner.alarm", lambda code, _message, **context: alarms.append((code, context["error_code"])))

        world.run(clearing)
        sweep()

        following.refresh_from_db()
        assert alarms == [("parked", "internal_error")]
        assert (clearing.state, following.state) == (State.PARKED, State.QUEUED)
        assert not Attempt.objects.filter(operation=operation(clearing, 4), code="internal_error").exists()

    def test_a_claim_that_comes_too_late_clears_nothing(self, world: World) -> None:
        clearing = confirmed_to_the_end(world)
        work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        shift_clock(60)
        sweep()

        recorded = interventions.finish_confirmed(work, Residue(ZERO), generation="")

        shift_clock(0)
        clearing.refresh_from_db()
        assert (recorded.outcome, clearing.state) == ("lost", State.QUEUED)

    def test_a_held_order_stays_parked_behind_the_step(self, world: World) -> None:
        clearing = unknown(world)
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        done_by_two(clearing, K.CONFIRM_DONE, OutsideEvidence("phone-17", amount=Decimal(3000)))

        assert (clearing.state, clearing.step, clearing.error_code) == (State.PARKED, 3, "contents_differ")
        done_by_two(clearing, K.RELEASE_HOLD)
        assert world.run(clearing).state == State.CLEARED

    def test_not_while_a_request_may_still_be_on_its_way(self, world: World) -> None:
        pk = asked(unknown(world), K.CONFIRM_DONE, OutsideEvidence("phone-17", amount=Decimal(3000)))

        with pytest.raises(NotPossible, match="on its way"):
            approve(pk, operator=BEN)

    @pytest.mark.parametrize(
        ("evidence", "says"),
        [
            (OutsideEvidence(amount=Decimal(3000)), "reference"),
            (OutsideEvidence("phone-17"), "amount"),
            (OutsideEvidence("phone-17", amount=Decimal(2999)), "a transfer of 3000 USDT from system to fund"),
            (OutsideEvidence("phone-17", amount=Decimal(-3000)), "negative"),
        ],
    )
    def test_evidence_that_does_not_fit_is_refused(self, world: World, evidence: OutsideEvidence, says: str) -> None:
        with pytest.raises(NotPossible, match=says):
            asked(unknown(world), K.CONFIRM_DONE, evidence)

    @pytest.mark.parametrize(
        ("evidence", "says"),
        [
            (OutsideEvidence("x", amount=Decimal(3000)), "bought"),
            (OutsideEvidence("x", amount=Decimal(3001), bought=Decimal("0.05")), "at most 3000 USDT into BTC"),
            (OutsideEvidence("x", amount=Decimal(2000), bought=Decimal("0.05")), "minimum lot"),
            (OutsideEvidence("x", amount=Decimal(3000), bought=Decimal(0)), "did not happen"),
        ],
    )
    def test_so_is_an_exchange_that_does_not(self, world: World, evidence: OutsideEvidence, says: str) -> None:
        with pytest.raises(NotPossible, match=says):
            asked(unknown(world, Action.EXCHANGE), K.CONFIRM_DONE, evidence)


class TestConfirmedAsNotDone:
    def test_only_then_may_a_retry_raise_the_revision_of_an_expired_key(self, world: World, settings: Settings) -> None:
        clearing = expired_key(world, settings)
        with pytest.raises(NotPossible, match="twice"):
            retry_by_hand(clearing.pk, actor="cleo", reason="again")

        done_by_two(clearing, K.CONFIRM_NOT_DONE)
        assert (clearing.state, clearing.error_code) == (State.PARKED, "confirmed_not_done")
        retry_by_hand(clearing.pk, actor="cleo", reason="the fund says that it wasn't done")
        world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2:r1", "3", "4"])

    def test_nor_of_a_reused_one(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.STATUS, status=422, code="key_reused"))
        clearing = world.run(world.accept())
        with pytest.raises(NotPossible, match="other contents than ours"):
            retry_by_hand(clearing.pk, actor="cleo", reason="again")

        done_by_two(clearing, K.CONFIRM_NOT_DONE)
        retry_by_hand(clearing.pk, actor="cleo", reason="the counter says that it was another's")
        world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1:r1", "2", "3", "4"])

    def test_the_operation_says_who_said_so(self, world: World) -> None:
        clearing = done_by_two(unknown(world), K.CONFIRM_NOT_DONE)

        found = operation(clearing, 2)
        note = msgspec.json.decode(bytes(found.response or b""))
        assert (found.state, found.error_code) == (OperationState.REJECTED, "confirmed_not_done")
        assert (note["asked_by"], note["approved_by"], note["reason"], note["reference"]) == ("ann", "ben", REASON, "phone-17")

    def test_a_pending_order_parks_when_it_is_asked_for_and_frees_its_lane(
        self, world: World, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.IN_PROGRESS, latency_ms=10_000_000))
        clearing = world.run(world.accept())
        following = world.accept()
        assert (clearing.state, following.state) == (State.PENDING, State.WAITING)

        with django_capture_on_commit_callbacks(execute=True):
            pk = asked(clearing, K.CONFIRM_NOT_DONE)

        clearing.refresh_from_db()
        following.refresh_from_db()
        assert (clearing.state, following.state) == (State.PARKED, State.QUEUED)
        assert broker.length(lane_queue(following.lane)) == 1
        shift_clock(LATER)
        approve(pk, operator=BEN)
        assert operation(clearing, 2).state == OperationState.REJECTED

    def test_not_while_a_request_may_still_be_on_its_way(self, world: World) -> None:
        clearing = unknown(world)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)

        with pytest.raises(NotPossible, match="on its way"):
            approve(pk, operator=BEN)

        assert operation(clearing, 2).state == OperationState.UNKNOWN
        assert Intervention.objects.get().state == InterventionState.REQUESTED
        shift_clock(LATER)
        approve(pk, operator=BEN)

    def test_an_answer_that_came_late_stands_against_it(self, world: World) -> None:
        clearing = unknown(world)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)
        late_answer(clearing)
        shift_clock(LATER)

        with pytest.raises(NotPossible, match="answered"):
            approve(pk, operator=BEN)

        assert operation(clearing, 2).state == OperationState.UNKNOWN

    def test_and_against_a_raised_revision_afterwards(self, world: World) -> None:
        clearing = done_by_two(unknown(world), K.CONFIRM_NOT_DONE)
        late_answer(clearing)

        with pytest.raises(NotPossible, match="answered"):
            retry_by_hand(clearing.pk, actor="cleo", reason="again")

    def test_what_is_surely_not_done_needs_no_confirming(self, world: World) -> None:
        with pytest.raises(NotPossible, match="nothing to confirm"):
            asked(rejected(world), K.CONFIRM_NOT_DONE)

    def test_a_held_order_stays_held(self, world: World) -> None:
        clearing = unknown(world)
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        clearing = world.when_due(clearing)

        done_by_two(clearing, K.CONFIRM_NOT_DONE)
        assert (clearing.state, clearing.error_code) == (State.PARKED, "contents_differ")
        done_by_two(clearing, K.RELEASE_HOLD)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "confirmed_not_done")
