"""The database is away, or its answer to a commit is lost: who asks again is told what was
recorded, and it counts once.
"""

import pytest
from django.db import OperationalError

from base import db
from clearing.flow.amounts import ZERO
from clearing.flow.fills import Residue
from clearing.models import Attempt
from clearing.policy.backoff import Reaction
from clearing.status import OperationState, Outcome, State
from clearing.store import claims
from clearing.store.claims import Evidence
from tests.clearing.work import claimed, done
from tests.support.orders import World, outcomes


def loses_an_answer(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """The first call of that function is committed, and nobody hears of it."""
    real, lost = db.call, iter([True])

    def answer_lost_once(sql: str, params: list[object]) -> object:
        rows = real(sql, params)
        if function in sql and next(lost, False):
            raise OperationalError("server closed the connection")
        return rows

    monkeypatch.setattr(claims, "call", answer_lost_once)


class TestCommitWhoseAnswerWasLost:
    def test_a_step_recorded_again_goes_on(self, world: World) -> None:
        work = claimed(world, world.accept())
        evidence, following = done(world, work)
        first = claims.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        again = claims.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

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
        first = claims.finish(work, evidence, Residue(ZERO), generation="")

        again = claims.finish(work, evidence, Residue(ZERO), generation="")

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
        first = claims.step_done(work, evidence, following, exchanges=(), in_place=False, generation="")

        again = claims.step_done(work, evidence, following, exchanges=(), in_place=False, generation="")

        assert (again.outcome, again.ref) == (State.QUEUED, first.ref)
        assert Attempt.objects.count() == 1

    def test_a_step_that_parked_for_a_hold_is_known_again(self, world: World) -> None:
        clearing, following_order = world.accept(), world.accept()
        work = claimed(world, clearing)
        evidence, following = done(world, work)
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        claims.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        again = claims.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        assert again.outcome == State.PARKED
        assert again.next is not None
        assert again.next.id == following_order.pk
        assert Attempt.objects.count() == 1

    @pytest.mark.parametrize("state", [State.RETRYING, State.PENDING, State.UNKNOWN, State.PARKED])
    def test_a_result_that_was_no_success_is_known_again(self, world: World, state: State) -> None:
        work = claimed(world, world.accept())
        evidence = Evidence(Outcome.UNKNOWN, work.clock.measured_at, code="timeout")
        reaction = Reaction(state, OperationState.UNKNOWN)
        claims.settle(work, evidence, reaction, counted=False, generation="")

        again = claims.settle(work, evidence, reaction, counted=False, generation="")

        assert again.outcome == state
        assert Attempt.objects.count() == 1

    def test_stepping_aside_is_known_again(self, world: World) -> None:
        work = claimed(world, world.accept())
        reaction = Reaction(State.RETRYING, OperationState.PLANNED)
        claims.defer_blocked(work, "counterparty_down", reaction, generation="")

        assert claims.defer_blocked(work, "counterparty_down", reaction, generation="").outcome == State.RETRYING

    def test_a_claim_is_known_again_and_its_operation_reconciled(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        loses_an_answer(monkeypatch, "clearing_claim_3(")

        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert outcomes(clearing)[:2] == [(1, "?retryable", "unknown_key"), (1, "done", "")]

    def test_a_claim_that_another_thread_may_have_taken_is_left_to_it(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        loses_an_answer(monkeypatch, "clearing_claim_3(")

        assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: False) is None

    def test_a_claim_under_another_name_is_not_ours(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        names = iter(["before it was declared dead", "now"])
        loses_an_answer(monkeypatch, "clearing_claim_3(")

        assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: next(names), gives_up=lambda: False, sole=True) is None

    def test_a_message_that_comes_again_while_it_is_run_does_nothing(self, world: World) -> None:
        clearing = world.accept()
        runner = world.runner()
        with runner.in_flight.claim(clearing.pk, clearing.epoch):
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

        monkeypatch.setattr(claims, "call", away_twice)
        world.run(clearing)

        assert clearing.state == State.CLEARED
