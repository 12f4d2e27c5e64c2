"""Ways out that a second person approves: a hold released, a step confirmed as done or as not done, an order voided."""

import threading
from dataclasses import dataclass, replace
from decimal import Decimal

import msgspec
import pytest
from django.db import IntegrityError, connection, transaction
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from acceptance_site.celery import lane_queue
from base.clock import shift_clock
from clearing import broker, store, store_people, store_recovery
from clearing.gateways import Action, Adjusted, Done, SigningClock, StoredRequest
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions import approve, ask, refuse, retry_by_hand
from clearing.models import Attempt, Clearing, Intervention
from clearing.status import InterventionKind, InterventionState, OperationState, Outcome, State
from clearing.steps import Runner
from clearing.store import Evidence, Recorded
from clearing.store_people import OutsideEvidence, Person
from clearing.waysout import NotPossible
from ops.sweep import sweep
from tests.support.beside import beside
from tests.support.orders import World, history, operation

ANN, BEN = Person("ann", 1), Person("ben", 2)
REASON = "the fund's people said so by phone"
BY_PHONE = OutsideEvidence(reference="phone-17", document="call of 10:32 with Ms. Wu, recorded as 4711")
K = InterventionKind
LATER = 120  # seconds: beyond any request that may be on its way


def asked(clearing: Clearing, kind: K, evidence: OutsideEvidence = BY_PHONE) -> int:
    return ask(clearing.pk, kind, person=ANN, reason=REASON, evidence=evidence)


def done_by_two(clearing: Clearing, kind: K, evidence: OutsideEvidence = BY_PHONE, *, later: float = LATER) -> Clearing:
    """Asked for and approved, when no request is on its way any more."""
    pk = asked(clearing, kind, evidence)
    shift_clock(later)
    approve(pk, person=BEN)
    shift_clock(0)
    clearing.refresh_from_db()
    return clearing


def held(world: World) -> Clearing:
    clearing = world.accept()
    store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
    clearing.refresh_from_db()
    return clearing


def unknown(world: World, action: Action = Action.TRANSFER, kind: FaultKind = FaultKind.RESET, direction: str = "OPEN") -> Clearing:
    """Its current operation was sent, and nobody knows what became of it."""
    world.counterparties.script(action, Fault(kind=kind))
    return world.run(world.accept(direction=direction))


def expired_key(world: World, settings: Settings, kind: FaultKind = FaultKind.RESET, action: Action = Action.TRANSFER) -> Clearing:
    """Parked: outcome unknown, and the key is too old to be asked for."""
    clearing = unknown(world, action, kind)
    settings.KEY_RETENTION_SECONDS = -1
    if kind != FaultKind.RESET:
        world.counterparties.script("status", Fault(kind=FaultKind.STATUS, status=404, code="unknown_key"))
    clearing = world.when_due(clearing)
    settings.KEY_RETENTION_SECONDS = 518_400
    assert (clearing.state, clearing.error_code) == (State.PARKED, "key_expired")
    return clearing


def rejected(world: World, action: Action = Action.TRANSFER, direction: str = "OPEN") -> Clearing:
    world.counterparties.script(action, Fault(kind=FaultKind.REFUSE))
    return world.run(world.accept(direction=direction))


def confirmed_to_the_end(world: World) -> Clearing:
    """Queued: people confirmed its last step, and a worker clears it when it comes to it."""
    world.stopping = lambda: len(world.counterparties.applied) >= 3
    clearing = world.run(world.accept())
    world.stopping = lambda: False
    world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
    world.run(clearing)
    assert (clearing.state, clearing.step) == (State.PARKED, 4)
    wished = msgspec.json.decode(bytes(operation(clearing, 4).request))["amount"]
    done_by_two(clearing, K.CONFIRM_DONE, OutsideEvidence("phone-17", amount=Decimal(wished)))
    assert clearing.state == State.QUEUED
    return clearing


class TestTwoPeople:
    def test_who_asked_can_not_approve(self, world: World) -> None:
        clearing = held(world)
        pk = asked(clearing, K.RELEASE_HOLD)

        with pytest.raises(NotPossible, match="can't approve"):
            approve(pk, person=ANN)

        clearing.refresh_from_db()
        assert (clearing.state, Intervention.objects.get().state) == (State.PARKED, InterventionState.REQUESTED)

    def test_not_even_under_another_name(self, world: World) -> None:
        pk = asked(held(world), K.RELEASE_HOLD)

        with pytest.raises(NotPossible, match="can't approve"):
            approve(pk, person=Person("ann-renamed", ANN.id))

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
            approve(pk, person=BEN)

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
        refuse(pk, person=BEN, reason="their message is right, ours is wrong")

        with pytest.raises(NotPossible, match="decided"):
            approve(pk, person=BEN)

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
            ask(held(world).pk, K.RELEASE_HOLD, person=ANN, reason=reason)


class TestMeanwhile:
    def test_a_retry_in_between_makes_it_fail(self, world: World) -> None:
        clearing = rejected(world)
        pk = asked(clearing, K.VOID)
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
        retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up")
        world.run(clearing)
        assert clearing.state == State.PARKED

        with pytest.raises(NotPossible, match="changed"):
            approve(pk, person=BEN)

        clearing.refresh_from_db()
        failed = Intervention.objects.get(pk=pk)
        assert (clearing.state, failed.state) == (State.PARKED, InterventionState.FAILED)
        assert "parked at step 2" in failed.outcome

    def test_another_hold_in_between_makes_a_release_fail(self, world: World) -> None:
        clearing = held(world)
        pk = asked(clearing, K.RELEASE_HOLD)
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        with pytest.raises(NotPossible, match="changed"):
            approve(pk, person=BEN)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.hold_code) == (State.PARKED, "contents_differ")

    def test_a_retry_of_what_was_confirmed_meanwhile_is_refused(self, world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = unknown(world)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)
        shift_clock(LATER)

        def confirmed_first(*_: object) -> None:
            approve(pk, person=BEN)

        monkeypatch.setattr("clearing.interventions.check", confirmed_first)
        with pytest.raises(NotPossible, match="changed"):
            retry_by_hand(clearing.pk, actor="cleo", reason="again")

        clearing.refresh_from_db()
        assert (clearing.state, operation(clearing, 2).state) == (State.PARKED, OperationState.REJECTED)


class TestReleaseOfAHold:
    def test_the_accepted_contents_stand_and_the_order_goes_on(self, world: World) -> None:
        clearing = done_by_two(held(world), K.RELEASE_HOLD)

        world.run(clearing)

        assert (clearing.state, clearing.hold_code, world.keys_applied(clearing)) == (State.CLEARED, "", ["1", "2", "3", "4"])

    def test_one_that_was_set_while_the_answer_was_on_its_way_parks_the_order_which_goes_on_from_there(self, world: World) -> None:
        clearing = unknown(world, Action.TRANSFER, FaultKind.APPLY_THEN_RESET)
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        with pytest.raises(NotPossible, match="once the order is parked"):
            asked(clearing, K.RELEASE_HOLD)
        clearing = world.when_due(clearing)
        assert (clearing.state, clearing.step) == (State.PARKED, 3)

        done_by_two(clearing, K.RELEASE_HOLD)
        world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])

    def test_an_operation_whose_outcome_is_not_known_is_asked_for_first(self, world: World) -> None:
        clearing = unknown(world)
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        clearing = world.when_due(clearing)
        assert operation(clearing, 2).state == OperationState.UNKNOWN

        done_by_two(clearing, K.RELEASE_HOLD)
        world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])

    def test_an_order_that_was_rejected_too_stays_parked_for_that(self, world: World) -> None:
        clearing = rejected(world)
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        done_by_two(clearing, K.RELEASE_HOLD)

        assert (clearing.state, clearing.hold_code, clearing.error_code) == (State.PARKED, "", "insufficient_funds")
        retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up")
        assert world.run(clearing).state == State.CLEARED

    def test_it_is_published(self, world: World, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks) -> None:
        clearing = held(world)
        pk = asked(clearing, K.RELEASE_HOLD)

        with django_capture_on_commit_callbacks(execute=True):
            approve(pk, person=BEN)

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
        store.claim(following.pk, following.epoch, worker=lambda: "w", gives_up=lambda: True)

        done_by_two(clearing, K.RELEASE_HOLD)

        assert clearing.state == State.WAITING


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
        evidence = OutsideEvidence("phone-17", amount=Decimal(3000), bought=Decimal("0.06"))

        done_by_two(clearing, K.CONFIRM_DONE, evidence)
        world.run(clearing)

        transfer = msgspec.json.decode(bytes(operation(clearing, 4).request))
        assert (clearing.state, transfer["amount"], clearing.slippage_usdt) == (State.CLEARED, "0.06", Decimal(500))

    def test_a_partial_one_is_followed_by_a_further_part(self, world: World, settings: Settings) -> None:
        clearing = expired_key(world, settings, action=Action.EXCHANGE)
        evidence = OutsideEvidence("phone-17", amount=Decimal(1000), bought=Decimal("0.02"), min_lot=Decimal(1))

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
        wished = msgspec.json.decode(bytes(operation(clearing, 4).request))["amount"]

        done_by_two(clearing, K.CONFIRM_DONE, OutsideEvidence("phone-17", amount=Decimal(wished)))
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

    def test_a_mistake_of_ours_at_its_end_parks_the_order_and_a_retry_of_the_mended_release_clears_it(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clearing = confirmed_to_the_end(world)
        with monkeypatch.context() as patched:
            patched.setattr("clearing.steps.after", lambda *_, **__: 1 / 0)
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
        monkeypatch.setattr("clearing.steps.after", lambda *_, **__: 1 / 0)
        monkeypatch.setattr("clearing.steps.alarm", lambda code, _message, **context: alarms.append((code, context["error_code"])))

        world.run(clearing)
        sweep()

        following.refresh_from_db()
        assert alarms == [("parked", "internal_error")]
        assert (clearing.state, following.state) == (State.PARKED, State.QUEUED)
        assert not Attempt.objects.filter(operation=operation(clearing, 4), code="internal_error").exists()

    def test_a_claim_that_comes_too_late_clears_nothing(self, world: World) -> None:
        clearing = rejected(world, Action.ADJUST)
        work_like = store.claim(world.accept("2").pk, 1, worker=lambda: "w", gives_up=lambda: True)
        assert work_like is not None

        recorded = store_people.finish_confirmed(work_like, Decimal(0), generation="")

        clearing.refresh_from_db()
        assert (recorded.outcome, Clearing.objects.get(pk=work_like.clearing_id).state) == ("lost", State.RUNNING)

    def test_a_held_order_stays_parked_behind_the_step(self, world: World) -> None:
        clearing = unknown(world)
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        done_by_two(clearing, K.CONFIRM_DONE, OutsideEvidence("phone-17", amount=Decimal(3000)))

        assert (clearing.state, clearing.step, clearing.error_code) == (State.PARKED, 3, "contents_differ")
        done_by_two(clearing, K.RELEASE_HOLD)
        assert world.run(clearing).state == State.CLEARED

    def test_not_while_a_request_may_still_be_on_its_way(self, world: World) -> None:
        pk = asked(unknown(world), K.CONFIRM_DONE, OutsideEvidence("phone-17", amount=Decimal(3000)))

        with pytest.raises(NotPossible, match="on its way"):
            approve(pk, person=BEN)

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
        with pytest.raises(NotPossible, match="other bytes"):
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
        approve(pk, person=BEN)
        assert operation(clearing, 2).state == OperationState.REJECTED

    def test_not_while_a_request_may_still_be_on_its_way(self, world: World) -> None:
        clearing = unknown(world)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)

        with pytest.raises(NotPossible, match="on its way"):
            approve(pk, person=BEN)

        assert operation(clearing, 2).state == OperationState.UNKNOWN
        assert Intervention.objects.get().state == InterventionState.REQUESTED
        shift_clock(LATER)
        approve(pk, person=BEN)

    def test_an_answer_that_came_late_stands_against_it(self, world: World) -> None:
        clearing = unknown(world)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)
        late_answer(clearing)
        shift_clock(LATER)

        with pytest.raises(NotPossible, match="answered"):
            approve(pk, person=BEN)

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
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        clearing = world.when_due(clearing)

        done_by_two(clearing, K.CONFIRM_NOT_DONE)
        assert (clearing.state, clearing.error_code) == (State.PARKED, "contents_differ")
        done_by_two(clearing, K.RELEASE_HOLD)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "confirmed_not_done")


def late_answer(clearing: Clearing) -> None:
    """A worker that had lost its claim long ago wakes up and records what it was answered."""
    found = operation(clearing, 2)
    connection.cursor().execute("SELECT clearing_record_attempt(%s, 1, 'w', false, 60000, 0, 'done', '', '', '{}')", [found.pk])


class TestVoid:
    def test_closes_a_rejected_order_and_lets_its_users_and_its_contracts_others_go_on(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.REFUSE))
        clearing = world.run(world.accept(contract_id="c-1"))
        sibling = world.accept(contract_id="c-1")
        assert sibling.state == State.WAITING

        done_by_two(clearing, K.VOID)

        sibling.refresh_from_db()
        assert (clearing.state, sibling.state) == (State.VOIDED, State.QUEUED)
        assert history(clearing)[-1] == ("parked", "voided", 1)

    def test_before_step_1_nothing_is_to_be_booked(self, world: World) -> None:
        done_by_two(rejected(world, Action.ADJUST), K.VOID)

        assert Intervention.objects.get().bookings == []

    def test_after_step_1_it_names_the_bookings_that_make_it_whole(self, world: World) -> None:
        done_by_two(rejected(world), K.VOID)

        assert booked() == {("system", "USDT"): "-3000", ("counter", "USDT"): "3000", ("system", "BTC"): "0.05", ("counter", "BTC"): "-0.05"}

    def test_of_a_close_too(self, world: World) -> None:
        clearing = rejected(world, Action.EXCHANGE, direction="CLOSE")

        done_by_two(clearing, K.VOID)

        assert booked() == {
            ("counter", "BTC"): "0.05",
            ("fund", "BTC"): "-0.05",
            ("counter", "USDT"): "3000",
            (f"owed:{clearing.user_id}", "USDT"): "-3000",
        }

    def test_what_was_exchanged_already_is_traded_back(self, world: World) -> None:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")), times=3)
        clearing = world.run(world.accept())
        assert clearing.error_code == "partial_execution"

        done_by_two(clearing, K.VOID)

        assert booked() == {
            ("counter", "USDT"): "3000",
            ("fund", "USDT"): "-375",
            ("market", "USDT"): "-2625",
            ("counter", "BTC"): "-0.05",
            ("system", "BTC"): "0.05",
            ("fund", "BTC"): "-0.04375",
            ("market", "BTC"): "0.04375",
        }

    @pytest.mark.parametrize("fault", [FaultKind.RESET, FaultKind.IN_PROGRESS])
    def test_not_while_nobody_knows_whether_its_operation_was_done(self, world: World, fault: FaultKind) -> None:
        clearing = unknown(world, kind=fault)
        refuse(asked(clearing, K.CONFIRM_NOT_DONE), person=BEN, reason="let us ask them again")

        with pytest.raises(NotPossible, match="nobody knows"):
            asked(clearing, K.VOID)

    def test_nor_does_the_database_let_it(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = unknown(world)
        refuse(asked(clearing, K.CONFIRM_NOT_DONE), person=BEN, reason="let us ask them again")
        monkeypatch.setattr("clearing.interventions.check", lambda *_: None)
        pk = asked(clearing, K.VOID)
        shift_clock(LATER)

        with pytest.raises(NotPossible, match="isn't finished"):
            approve(pk, person=BEN)

        clearing.refresh_from_db()
        assert (clearing.state, Intervention.objects.get(pk=pk).state) == (State.PARKED, InterventionState.FAILED)

    def test_not_while_a_request_may_still_be_on_its_way(self, world: World) -> None:
        """A worker that had lost its claim wakes, sends, and is told nothing, just after two people said that the step wasn't done."""
        clearing = done_by_two(unknown(world), K.CONFIRM_NOT_DONE)
        connection.cursor().execute(
            "SELECT clearing_record_attempt(%s, 1, 'w', false, 5000, 0, 'unknown', 'timeout', '', NULL)", [operation(clearing, 2).pk]
        )
        pk = asked(clearing, K.VOID)

        with pytest.raises(NotPossible, match="on its way"):
            approve(pk, person=BEN)

        clearing.refresh_from_db()
        assert (clearing.state, Intervention.objects.get(pk=pk).state) == (State.PARKED, InterventionState.REQUESTED)
        shift_clock(LATER)
        approve(pk, person=BEN)

    def test_a_frozen_workers_claim_counts_to_its_own_end(self, world: World, settings: Settings) -> None:
        """Declared dead after three seconds, it may wake and sign until the end of the claim that it was given."""
        clearing = world.accept()
        store.claim(clearing.pk, clearing.epoch, worker=lambda: "frozen", gives_up=lambda: True)
        bury("frozen")
        store_recovery.requeue([clearing.pk], actor="sweep", generation="")

        until = store_people.on_its_way_until(clearing.pk)

        taken = Attempt.objects.get()
        assert until is not None
        assert (until - taken.sent_at).total_seconds() == pytest.approx(settings.CLEARING_CLAIM_SECONDS + settings.REQUEST_TRANSIT_SECONDS)

    def test_an_answer_that_says_done_stands_against_it(self, world: World) -> None:
        clearing = done_by_two(unknown(world), K.CONFIRM_NOT_DONE)
        late_answer(clearing)
        pk = asked(clearing, K.VOID)
        shift_clock(LATER)

        with pytest.raises(NotPossible, match="answered"):
            approve(pk, person=BEN)

        clearing.refresh_from_db()
        assert clearing.state == State.PARKED

    def test_a_running_order_is_not_voided(self, world: World) -> None:
        with pytest.raises(NotPossible, match="only a parked order"):
            asked(world.accept(), K.VOID)

    def test_what_is_voided_stays_so(self, world: World) -> None:
        clearing = done_by_two(rejected(world), K.VOID)

        with pytest.raises(NotPossible, match="voided"):
            retry_by_hand(clearing.pk, actor="cleo", reason="again")
        assert sum(sweep().values()) == 0


def booked() -> dict[tuple[str, str], str]:
    return {(one["account"], one["asset"]): one["amount"] for one in Intervention.objects.get(kind=K.VOID).bookings}


class TestRetryIsKept:
    def test_as_an_intervention_too(self, world: World) -> None:
        clearing = rejected(world)

        retry_by_hand(clearing.pk, actor="ann", actor_id=1, reason="it was topped up")

        kept = Intervention.objects.get()
        assert (kept.kind, kept.state, kept.asked_by, kept.reason) == (K.RETRY, InterventionState.EXECUTED, "ann", "it was topped up")
        assert kept.outcome.endswith(":2:r1")


@pytest.mark.django_db(transaction=True)
class TestSameMoment:
    def test_two_approvals_execute_once(self, busy_world: World) -> None:
        clearing = held(busy_world)
        pk = asked(clearing, K.RELEASE_HOLD)
        approvals = [beside(lambda name=name: approve(pk, person=Person(name))) for name in ("ben", "cleo", "dan")]  # type: ignore[misc]
        for thread, _ in approvals:
            thread.join(10)

        found = [outcome for _, outcomes in approvals for outcome in outcomes]
        assert sorted(isinstance(outcome, NotPossible) for outcome in found) == [False, True, True]
        assert history(clearing).count(("parked", "waiting", 1)) == 1

    def test_a_release_waits_for_an_order_that_is_being_accepted_and_then_behind_it(self, busy_world: World) -> None:
        clearing = held(busy_world)
        pk = asked(clearing, K.RELEASE_HOLD)

        with transaction.atomic():
            accepted = busy_world.accept()
            thread, found = beside(lambda: approve(pk, person=BEN))
            thread.join(0.3)
            assert not found
        thread.join(10)

        clearing.refresh_from_db()
        assert found == ["the hold was released; the order goes on"]
        assert (clearing.state, accepted.state) == (State.WAITING, State.QUEUED)

    def test_a_hold_that_is_being_set_makes_a_release_fail(self, busy_world: World) -> None:
        clearing = held(busy_world)
        pk = asked(clearing, K.RELEASE_HOLD)

        with transaction.atomic():
            store.hold(clearing.order.order_id, "deleted_at_counter", actor="test", generation="")
            thread, found = beside(lambda: approve(pk, person=BEN))
            thread.join(0.3)
            assert not found
        thread.join(10)

        clearing.refresh_from_db()
        assert isinstance(found[0], NotPossible)
        assert (clearing.state, clearing.error_code) == (State.PARKED, "deleted_at_counter")

    def test_a_release_that_is_being_made_lets_a_later_hold_park_the_order_again(self, busy_world: World) -> None:
        clearing = held(busy_world)
        pk = asked(clearing, K.RELEASE_HOLD)

        with transaction.atomic():
            approve(pk, person=BEN)
            thread, found = beside(lambda: store.hold(clearing.order.order_id, "deleted_at_counter", actor="test", generation=""))
            thread.join(0.3)
            assert not found
        thread.join(10)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.error_code, clearing.hold_code) == (State.PARKED, "deleted_at_counter", "deleted_at_counter")

    def test_a_parked_order_that_is_retried_while_its_users_next_one_clears_is_queued_once(self, busy_world: World) -> None:
        clearing = rejected(busy_world)
        busy_world.stopping = lambda: len(busy_world.counterparties.applied) >= 4
        following = busy_world.run(busy_world.accept())
        work = store.claim(following.pk, following.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        assert work.step == 4
        evidence = Evidence(Outcome.DONE, work.clock.measured_at, response=b"{}")

        with transaction.atomic():
            retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up")
            thread, found = beside(lambda: store.finish(work, evidence, Decimal(0), generation=""))
            thread.join(0.3)
            assert not found
        thread.join(10)

        clearing.refresh_from_db()
        recorded = found[0]
        assert isinstance(recorded, Recorded)
        assert recorded.next is not None
        assert (recorded.outcome, recorded.next.id, clearing.state) == (State.CLEARED, clearing.pk, State.QUEUED)

    def test_and_the_other_way_round(self, busy_world: World) -> None:
        clearing = rejected(busy_world)
        busy_world.stopping = lambda: len(busy_world.counterparties.applied) >= 4
        following = busy_world.run(busy_world.accept())
        work = store.claim(following.pk, following.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        evidence = Evidence(Outcome.DONE, work.clock.measured_at, response=b"{}")

        with transaction.atomic():
            store.finish(work, evidence, Decimal(0), generation="")
            thread, found = beside(lambda: retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up"))
            thread.join(0.3)
            assert not found
        thread.join(10)

        clearing.refresh_from_db()
        assert (found, clearing.state) == ([None], State.QUEUED)

    def test_a_worker_that_was_declared_dead_sends_while_two_people_would_void_the_order(self, busy_world: World) -> None:
        """It is frozen between taking the time and sending; nothing that people do is executed before its request can't be applied any more."""
        clearing = busy_world.accept()
        arrived, goes_on = threading.Event(), threading.Event()
        frozen = FrozenCounter(busy_world, arrived, goes_on)
        thread, _ = beside(lambda: frozen.runner().run(clearing.pk, clearing.epoch))
        assert arrived.wait(10)
        bury("frozen")
        store_recovery.requeue([clearing.pk], actor="sweep", generation="")
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        clearing = busy_world.run(clearing)
        assert (clearing.state, operation(clearing, 1).state) == (State.PARKED, OperationState.UNKNOWN)
        with pytest.raises(NotPossible, match="nobody knows"):
            asked(clearing, K.VOID)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)

        with pytest.raises(NotPossible, match="on its way"):
            approve(pk, person=BEN)
        goes_on.set()
        thread.join(10)
        shift_clock(LATER)
        with pytest.raises(NotPossible, match="answered"):
            approve(pk, person=BEN)
        shift_clock(0)

        clearing.refresh_from_db()
        assert (clearing.state, busy_world.keys_applied(clearing)) == (State.PARKED, ["1"])


@dataclass
class FrozenCounter:
    """A counter that a worker is about to send to; the call goes out when the test lets it."""

    world: World
    arrived: threading.Event
    goes_on: threading.Event

    def adjust(self, stored: StoredRequest, clock: SigningClock) -> Done[Adjusted]:
        self.arrived.set()
        assert self.goes_on.wait(10)
        return self.world.counterparties.gateways().counter.adjust(stored, clock)

    def status(self, stored: StoredRequest, clock: SigningClock) -> Done[Adjusted] | None:
        return self.world.counterparties.gateways().counter.status(stored, clock)

    def runner(self) -> Runner:
        gateways = replace(self.world.counterparties.gateways(), counter=self)
        return Runner(lambda: "frozen", gateways, lambda: False, self.world.guard)


def bury(name: str) -> None:
    """Declared dead after three seconds of silence, long before its claim ends."""
    sql = "INSERT INTO base_incarnation (name, role, host, pid, version, \"end\", ended_at) VALUES (%s, 'w', 'h', 1, '', 'dead', now())"
    with connection.cursor() as cursor:
        cursor.execute(sql, [name])
