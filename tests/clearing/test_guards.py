"""What a careful reader found: each of these fails when its guard is taken out."""

import threading
import time
from decimal import Decimal

import pytest
from django.db import OperationalError, connection, transaction

from acceptance_site.celery import app
from base import db
from base.clock import shift_clock
from clearing import broker, pipeline, store, store_recovery
from clearing.flows import CURRENT_FLOW, Planned, after
from clearing.gateways import Action, Exchanged, UnknownOutcome
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions import retry_by_hand
from clearing.models import Attempt, Clearing
from clearing.retry import WISH_MS_MAX, Backoff, Reaction
from clearing.status import OperationState, Outcome, State
from clearing.store import ClearingRef, Evidence, Work
from clearing.waysout import NotPossible
from tests.support.beside import beside, until_somebody_waits_for_a_lock
from tests.support.orders import World, operation, outcomes


def claimed(world: World, clearing: Clearing) -> Work:
    work = store.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
    assert work is not None
    return work


def done(world: World, work: Work) -> tuple[Evidence, Planned]:
    """The evidence of the work's call, made, and the operation that follows."""
    answer = world.counterparties.gateways().perform(work.stored, work.clock)
    following = after(work.flow, work.order, work.step, work.exchanges)
    assert isinstance(following, Planned)
    return Evidence(Outcome.DONE, work.clock.measured_at, response=answer.body), following


def loses_an_answer(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """The first call of that function is committed, and nobody hears of it."""
    real, lost = db.call, iter([True])

    def answer_lost_once(sql: str, params: list[object]) -> object:
        rows = real(sql, params)
        if function in sql and next(lost, False):
            raise OperationalError("server closed the connection")
        return rows

    monkeypatch.setattr(store, "call", answer_lost_once)


class TestBrokerAway:
    @pytest.fixture
    def closed_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(app.conf, "broker_write_url", "redis://127.0.0.1:1/0")
        monkeypatch.setattr(pipeline, "_publisher", pipeline._Publisher())
        monkeypatch.setattr(pipeline, "_away", pipeline._Away())

    def test_publishing_says_so_and_raises_nothing(self, closed_port: None) -> None:
        assert pipeline.publish([ClearingRef(1, 1, 1, 0, 0)]) is False

    def test_publishers_leave_it_alone_for_a_moment(self, closed_port: None, monkeypatch: pytest.MonkeyPatch) -> None:
        pipeline.publish([ClearingRef(1, 1, 1, 0, 0)])
        monkeypatch.setattr(pipeline, "_send", lambda *_: pytest.fail("asked again"))

        assert pipeline.publish([ClearingRef(1, 1, 1, 0, 0)]) is False


class TestCommitWhoseAnswerWasLost:
    def test_a_step_recorded_again_goes_on(self, world: World) -> None:
        work = claimed(world, world.accept())
        evidence, following = done(world, work)
        first = store.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        again = store.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        assert (first.outcome, again.outcome) == (State.RUNNING, State.RUNNING)
        assert first.work is not None
        assert again.work is not None
        assert first.work.operation_id == again.work.operation_id
        assert Attempt.objects.count() == 1

    def test_a_finish_recorded_again_still_names_the_next_order(self, world: World) -> None:
        clearing, following = world.accept(), world.accept()
        world.stopping = lambda: len(world.counterparties.applied) >= 3
        world.run(clearing)
        work = claimed(world, clearing)
        evidence = Evidence(Outcome.DONE, work.clock.measured_at, response=b"{}")
        first = store.finish(work, evidence, Decimal(0), generation="")

        again = store.finish(work, evidence, Decimal(0), generation="")

        assert (first.outcome, again.outcome) == (State.CLEARED, State.CLEARED)
        assert first.next == again.next
        assert again.next is not None
        assert again.next.id == following.pk

    def test_the_worker_repeats_it_while_its_claim_lasts(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        loses_an_answer(monkeypatch, "clearing_step_done")

        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_a_step_handed_back_again_still_names_itself(self, world: World) -> None:
        work = claimed(world, world.accept())
        evidence, following = done(world, work)
        first = store.step_done(work, evidence, following, exchanges=(), in_place=False, generation="")

        again = store.step_done(work, evidence, following, exchanges=(), in_place=False, generation="")

        assert (again.outcome, again.ref) == (State.QUEUED, first.ref)
        assert Attempt.objects.count() == 1

    def test_a_step_that_parked_for_a_hold_is_known_again(self, world: World) -> None:
        clearing, following_order = world.accept(), world.accept()
        work = claimed(world, clearing)
        evidence, following = done(world, work)
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        store.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        again = store.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        assert again.outcome == State.PARKED
        assert again.next is not None
        assert again.next.id == following_order.pk
        assert Attempt.objects.count() == 1

    @pytest.mark.parametrize("state", [State.RETRYING, State.PENDING, State.UNKNOWN, State.PARKED])
    def test_a_result_that_was_no_success_is_known_again(self, world: World, state: State) -> None:
        work = claimed(world, world.accept())
        evidence = Evidence(Outcome.UNKNOWN, work.clock.measured_at, code="timeout")
        reaction = Reaction(state, OperationState.UNKNOWN)
        store.settle(work, evidence, reaction, counted=False, generation="")

        again = store.settle(work, evidence, reaction, counted=False, generation="")

        assert again.outcome == state
        assert Attempt.objects.count() == 1

    def test_stepping_aside_is_known_again(self, world: World) -> None:
        work = claimed(world, world.accept())
        reaction = Reaction(State.RETRYING, OperationState.PLANNED)
        store.step_aside(work, "counterparty_down", reaction, generation="")

        assert store.step_aside(work, "counterparty_down", reaction, generation="").outcome == State.RETRYING

    def test_a_claim_is_known_again_and_its_operation_asked_for_first(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        loses_an_answer(monkeypatch, "clearing_claim(")

        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert outcomes(clearing)[:2] == [(1, "?retryable", "unknown_key"), (1, "done", "")]

    def test_a_claim_that_another_thread_may_have_taken_is_left_to_it(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        loses_an_answer(monkeypatch, "clearing_claim(")

        assert store.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: False) is None

    def test_a_claim_under_another_name_is_not_ours(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        names = iter(["before it was declared dead", "now"])
        loses_an_answer(monkeypatch, "clearing_claim(")

        assert store.claim(clearing.pk, clearing.epoch, worker=lambda: next(names), gives_up=lambda: False, sole=True) is None

    def test_a_message_that_comes_again_while_it_is_run_does_nothing(self, world: World) -> None:
        clearing = world.accept()
        runner = world.runner()
        with runner.under_way.entered(clearing.pk, clearing.epoch):
            runner.run(clearing.pk, clearing.epoch)

        clearing.refresh_from_db()
        assert clearing.state == State.QUEUED


class TestDatabaseAway:
    def test_a_claim_waits_for_it_so_that_the_message_is_not_wasted(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        real, away = db.call, iter([True, True])

        def away_twice(sql: str, params: list[object]) -> object:
            if "clearing_claim" in sql and next(away, False):
                raise OperationalError("connection refused")
            return real(sql, params)

        monkeypatch.setattr(store, "call", away_twice)
        world.run(clearing)

        assert clearing.state == State.CLEARED


class TestHeld:
    def test_what_the_counterparty_does_not_know_is_not_sent_again(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
        clearing = world.run(world.accept())
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        clearing = world.when_due(clearing)

        assert (clearing.state, clearing.error_code, world.keys_applied(clearing)) == (State.PARKED, "contents_differ", [])
        assert operation(clearing, 1).state == OperationState.UNKNOWN

    def test_what_it_has_done_is_taken_before_the_order_parks(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.APPLY_THEN_RESET))
        clearing = world.run(world.accept())
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        clearing = world.when_due(clearing)

        assert (clearing.state, clearing.step, world.keys_applied(clearing)) == (State.PARKED, 2, ["1"])


class TestTakenOver:
    def test_the_earliest_possible_sending_counts_for_how_long_the_key_is_kept(self, world: World) -> None:
        clearing = world.accept()
        claimed(world, clearing)
        shift_clock(8 * 24 * 3600)
        world.counterparties.clock_ms = lambda: (time.time_ns() // 1_000_000) + 8 * 24 * 3_600_000
        store_recovery.requeue([clearing.pk], actor="sweep", generation="")
        clearing.refresh_from_db()

        world.run(clearing)

        shift_clock(0)
        assert (clearing.state, clearing.error_code) == (State.PARKED, "key_expired")
        assert world.keys_applied(clearing) == []


class TestOwnMistakes:
    def test_an_unexpected_error_parks_the_order_instead_of_running_for_ever(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        monkeypatch.setattr("clearing.steps.after", lambda *_, **__: 1 / 0)

        world.run(clearing)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "internal_error")
        assert operation(clearing, 1).state == OperationState.UNKNOWN

    def test_what_was_answered_before_is_kept(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        monkeypatch.setattr("clearing.steps.after", lambda *_, **__: 1 / 0)

        world.run(clearing)

        assert outcomes(clearing) == [(1, "done", ""), (1, "unknown", "internal_error")]

    def test_an_answer_that_cannot_be_kept_parks_the_order_too(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()

        def unkeepable(*_: object) -> None:
            raise UnknownOutcome("a\0b")

        monkeypatch.setattr("clearing.gateways.ports.Gateways.perform", unkeepable)
        world.run(clearing)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "internal_error")

    def test_and_a_retry_after_the_fix_does_nothing_twice(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        with monkeypatch.context() as patched:
            patched.setattr("clearing.steps.after", lambda *_, **__: 1 / 0)
            world.run(clearing)

        retry_by_hand(clearing.pk, actor="ann", reason="fixed in 1.2")
        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_one_that_comes_after_the_record_leaves_what_is_recorded_alone(self, world: World) -> None:
        work = claimed(world, world.accept())
        evidence, following = done(world, work)
        store.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        settled = store.settle(work, evidence, Reaction(State.PARKED, OperationState.UNKNOWN), counted=False, generation="")

        clearing = Clearing.objects.get()
        assert (settled.outcome, clearing.state, clearing.step) == ("lost", State.RUNNING, 2)
        assert operation(clearing, 1).state == OperationState.DONE


class TestHostileAnswers:
    def test_a_nul_in_a_detail_is_kept_as_a_replacement(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()

        def hostile(*_: object) -> None:
            raise UnknownOutcome("status_503", "a\0b")

        monkeypatch.setattr("clearing.gateways.ports.Gateways.perform", hostile)
        world.run(clearing)

        assert clearing.state == State.UNKNOWN
        assert Attempt.objects.get().detail == "a\ufffdb"

    def test_a_wish_to_wait_for_weeks_is_cut(self) -> None:
        assert Backoff(200, 30_000).delay_ms(1, wish_ms=10**18) == WISH_MS_MAX

    def test_amounts_beyond_an_assets_scale_are_cut(self, world: World) -> None:
        order = claimed(world, world.accept()).order
        part = Exchanged("x", 1, "USDT", Decimal(3000), "BTC", Decimal("0.049123456789123"), Decimal(60_000), Decimal(1))

        following = after(CURRENT_FLOW, order, 3, [part])

        assert isinstance(following, Planned)
        assert b'"amount":"0.04912345"' in following.request

    def test_a_minimum_lot_that_makes_most_of_an_order_dust_parks_it(self, world: World) -> None:
        order = claimed(world, world.accept()).order
        part = Exchanged("x", 1, "USDT", Decimal(2000), "BTC", Decimal("0.03"), Decimal(60_000), Decimal(999_999))

        assert getattr(after(CURRENT_FLOW, order, 3, [part]), "code", "") == "partial_execution"

    def test_a_rejection_after_a_lost_answer_is_final_only_when_the_key_says_so(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.STATUS, status=400, code="invalid_request"))
        clearing = world.run(world.accept())

        world.when_due(clearing)
        retry_by_hand(clearing.pk, actor="ann", reason="again")
        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert (1, "rejected", "invalid_request") in outcomes(clearing)


class TestHoldAtTheSameMoment:
    def test_a_held_order_is_not_retried_however_stale_the_page(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        monkeypatch.setattr("clearing.interventions.check", lambda *_: None)

        with pytest.raises(NotPossible, match="changed"):
            retry_by_hand(clearing.pk, actor="ann", reason="again")

    @pytest.mark.django_db(transaction=True)
    def test_a_step_recorded_while_a_hold_is_being_set_parks(self) -> None:
        broker.client().flushdb()
        world = World()
        clearing = world.accept()
        work = claimed(world, clearing)
        evidence, following = done(world, work)
        recorded: list[str] = []

        def record() -> None:
            try:
                recorded.append(store.step_done(work, evidence, following, exchanges=(), in_place=True, generation="").outcome)
            finally:
                connection.close()

        with transaction.atomic():
            store.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
            recorder = threading.Thread(target=record)
            recorder.start()
            recorder.join(0.3)
            assert not recorded
        recorder.join(10)

        clearing.refresh_from_db()
        assert (recorded, clearing.state) == ([State.PARKED], State.PARKED)

    def test_and_a_second_hold_that_waits_for_the_lane_is_no_deadlock(self, busy_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = busy_world.accept()
        work = claimed(busy_world, clearing)
        evidence, following = done(busy_world, work)
        waits_ended_by = waits_that_were_ended(monkeypatch)
        order_id = clearing.order.order_id

        with transaction.atomic():
            store.hold(order_id, "contents_differ", actor="test", generation="")
            step, _ = beside(lambda: store.step_done(work, evidence, following, exchanges=(), in_place=True, generation=""))
            until_somebody_waits_for_a_lock()
            second, _ = beside(lambda: store.hold(order_id, "deleted_at_counter", actor="test", generation=""))
            until_somebody_waits_for_a_lock(sessions=2)
        step.join(30)
        second.join(30)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.step, clearing.error_code) == (State.PARKED, 2, "deleted_at_counter")
        assert waits_ended_by == []


def waits_that_were_ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ends the store's calls that wait for a lock, from now on."""
    real, ended = db.call, list[str]()

    def watched(sql: str, params: list[object]) -> object:
        try:
            return real(sql, params)
        except OperationalError as error:
            if db.gave_up_waiting(error):
                ended.append(repr(error))
            raise

    monkeypatch.setattr(store, "call", watched)
    return ended
