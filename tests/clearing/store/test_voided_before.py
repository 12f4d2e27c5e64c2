"""After a restore: an order that people voided in the forgotten time isn't cleared on top of what
was booked by hand for it.
"""

from datetime import timedelta

import pytest
from pytest_django import Settings
from structlog.testing import capture_logs

from base.clock import shift_clock
from clearing.dispatch import publish
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.case import load
from clearing.interventions.eligibility import possible
from clearing.interventions.requests import approve, retry_by_hand
from clearing.models import Attempt, Clearing, Intervention, RestorePoint, VoidedBefore
from clearing.status import OperationState, Outcome, State
from clearing.store import claims, recovery
from clearing.store.claims import ClearingRef
from clearing.store.interventions import NotPossible
from clearing.store.restored import done_since_restore
from tests.clearing.people import BEN, LATER, K, asked, done_by_two
from tests.clearing.restored import HELD, NUMBER, ORDER_ID, forgotten, now_ms, parked_at_2, tell, to_the_end, void
from tests.support.orders import World, operation, outcomes


@pytest.fixture
def voided(world: World, settings: Settings) -> int:
    """Parked at step 2 and voided after the backup, with bookings: when the order was made. It
    comes again by `world.accept`.
    """
    created = now_ms()
    with forgotten():
        assert void(parked_at_2(world, settings, created)).bookings
    return created


def come_again(world: World, created_ms: int) -> Clearing:
    return world.accept(direction="CLOSE", number=NUMBER, created_ms=created_ms)


class TestAVoidThatARestoreHasForgotten:
    def test_holds_its_order_when_it_comes_again(self, world: World, voided: int) -> None:
        applied = list(world.counterparties.applied)
        assert tell(ORDER_ID).awaited == [ORDER_ID]

        clearing = to_the_end(world, come_again(world, voided))

        assert (clearing.state, clearing.error_code, clearing.hold_code) == (State.PARKED, HELD, HELD)
        assert (world.counterparties.applied, outcomes(clearing)) == (applied, [])

    def test_lets_its_users_other_orders_go_on(self, world: World, voided: int) -> None:
        tell(ORDER_ID)
        come_again(world, voided)

        assert world.run(world.accept(created_ms=now_ms())).state == State.CLEARED

    def test_publishes_whom_that_lets_go_on(self, world: World, voided: int, monkeypatch: pytest.MonkeyPatch) -> None:
        published: list[ClearingRef] = []
        come_again(world, voided)
        following = world.accept(created_ms=now_ms())
        monkeypatch.setattr(publish, "publish", published.extend)

        tell(ORDER_ID)

        following.refresh_from_db()
        assert ([ref.id for ref in published], following.state) == ([following.pk], State.QUEUED)

    @pytest.mark.parametrize("behind_another", [False, True])
    def test_holds_an_order_that_is_here(self, world: World, voided: int, behind_another: bool) -> None:
        before = world.accept(created_ms=voided - 1) if behind_another else None
        clearing = come_again(world, voided)

        told = tell(ORDER_ID)

        clearing.refresh_from_db()
        assert (told.held, clearing.state, clearing.hold_code) == ([ORDER_ID], State.PARKED, HELD)
        assert before is None or world.run(before).state == State.CLEARED

    def test_holds_one_whose_worker_asks_before_its_next_step(self, world: World, voided: int) -> None:
        clearing = come_again(world, voided)
        work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "test-worker", gives_up=lambda: True)
        assert work is not None

        tell(ORDER_ID)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.hold_code) == (State.RUNNING, HELD)
        clearing = world.when_due(clearing)
        assert (clearing.state, clearing.step, clearing.error_code) == (State.PARKED, 2, HELD)
        assert world.keys_applied(clearing) == ["1"]

    def test_names_no_booking_again_and_needs_no_confirmation(self, world: World, voided: int) -> None:
        tell(ORDER_ID)
        clearing = come_again(world, voided)

        again = void(clearing)

        clearing.refresh_from_db()
        assert (clearing.state, again.bookings) == (State.VOIDED, [])
        assert "nothing is to be booked on top" in again.outcome

    def test_of_an_order_of_the_backup_names_no_booking_again(self, world: World, settings: Settings) -> None:
        clearing = parked_at_2(world, settings, now_ms())
        with forgotten():
            assert void(clearing).bookings
        assert tell(ORDER_ID).held == [ORDER_ID]
        clearing = Clearing.objects.get(pk=clearing.pk)
        assert operation(clearing, 1).state == OperationState.DONE

        again = void(clearing)

        assert (again.bookings, Clearing.objects.get(pk=clearing.pk).state) == ([], State.VOIDED)

    def test_leaves_what_was_done_since_the_restore_to_be_booked(self, world: World, settings: Settings, voided: int) -> None:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.UNREACHABLE), times=2)
        clearing = to_the_end(world, come_again(world, voided))
        assert (clearing.state, clearing.step, world.keys_applied(clearing)) == (State.PARKED, 3, ["1", "2"])  # told too late

        tell(ORDER_ID)

        clearing.refresh_from_db()
        assert {(one.account, one.asset) for one in load(clearing.pk).bookings()} == {("system", "BTC"), ("fund", "BTC")}

    @pytest.mark.parametrize(
        ("attempts", "since"),
        [
            ([(True, Outcome.DONE, "", 1)], False),
            ([(False, Outcome.UNKNOWN, "", -1), (True, Outcome.DONE, "", 1)], False),
            ([(False, Outcome.LOST, "claim_lost", 1), (True, Outcome.DONE, "", 1)], False),
            ([(False, Outcome.UNKNOWN, "timeout", 1), (True, Outcome.DONE, "", 1)], True),
            ([(True, Outcome.RETRYABLE, "unknown_key", 1), (False, Outcome.LOST, "", 1), (True, Outcome.DONE, "", 1)], True),
            ([(False, Outcome.DONE, "", 1)], True),
        ],
    )
    def test_knows_what_was_done_since_by_its_attempts(self, world: World, attempts: list[tuple[bool, Outcome, str, int]], since: bool) -> None:
        recovery.mark_restored(now_ms(), reason="test", actor="test")
        restored_at = RestorePoint.objects.get().at
        clearing = world.accept()
        current = operation(clearing, 1)
        Attempt.objects.bulk_create(
            Attempt(operation=current, epoch=1, worker="w", asked=asked, outcome=outcome, code=code, sent_at=restored_at + timedelta(seconds=seconds))
            for asked, outcome, code, seconds in attempts
        )
        clearing.operations.update(state=OperationState.DONE)

        assert done_since_restore(clearing.pk) == ([current.pk] if since else [])

    def test_does_not_settle_what_was_sent_since_the_restore(self, world: World, voided: int) -> None:
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.RESET))
        clearing = to_the_end(world, come_again(world, voided))
        assert (clearing.state, clearing.step) == (State.UNKNOWN, 2)

        tell(ORDER_ID)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.error_code) == (State.PARKED, HELD)
        with pytest.raises(NotPossible, match="confirm that first"):
            asked(clearing, K.VOID)

    def test_is_checked_again_at_the_approval(self, world: World, voided: int) -> None:
        clearing = come_again(world, voided)
        tell(ORDER_ID)
        clearing.refresh_from_db()
        pk = asked(clearing, K.VOID)
        VoidedBefore.objects.update(released_at="2026-01-01T00:00:00Z")
        shift_clock(LATER)

        with pytest.raises(NotPossible, match="isn't finished"):
            approve(pk, operator=BEN)

    def test_is_what_a_rejection_needs_no_question_after(self, world: World) -> None:
        created = now_ms()
        with forgotten():
            world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
            void(world.run(come_again(world, created)))
        clearing = world.run(come_again(world, created))
        assert operation(clearing, 2).state == OperationState.REJECTED
        with pytest.raises(NotPossible, match="may have forgotten a retry"):
            asked(clearing, K.VOID)

        tell(ORDER_ID)

        clearing.refresh_from_db()
        assert void(clearing).bookings == []

    def test_that_was_never_made_is_released_and_the_order_cleared(self, world: World, voided: int) -> None:
        tell(ORDER_ID)
        clearing = come_again(world, voided)
        assert K.RETRY not in possible(load(clearing.pk).situation)
        with pytest.raises(NotPossible, match="void it again"):
            retry_by_hand(clearing.pk, actor="ann", reason="no")

        done_by_two(clearing, K.RELEASE_HOLD)

        assert world.run(clearing).state == State.CLEARED
        assert [one.bookings for one in Intervention.objects.all()] == [[]]

    def test_makes_what_was_asked_for_before_fail(self, world: World, settings: Settings) -> None:
        clearing = parked_at_2(world, settings, now_ms())
        with forgotten():
            void(clearing)
        clearing = Clearing.objects.get(pk=clearing.pk)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)
        tell(ORDER_ID)
        shift_clock(LATER)

        with pytest.raises(NotPossible, match="changed since"):
            approve(pk, operator=BEN)

    def test_of_an_order_that_is_cleared_raises_the_alarm(self, world: World, voided: int) -> None:
        assert to_the_end(world, come_again(world, voided)).state == State.CLEARED

        with capture_logs() as lines:
            told = tell(ORDER_ID)

        assert told.cleared == [ORDER_ID]
        assert [line["order_id"] for line in lines if line.get("alarm") == HELD] == [ORDER_ID]


class TestBesideAnotherHold:
    def held_otherwise(self, world: World, created_ms: int) -> Clearing:
        clearing = come_again(world, created_ms)
        claims.hold(ORDER_ID, "contents_differ", actor="test", generation="")
        return world.run(clearing)

    def test_it_comes_to_light_when_the_other_is_released(self, world: World, voided: int) -> None:
        clearing = self.held_otherwise(world, voided)
        assert tell(ORDER_ID).held == [ORDER_ID]
        clearing.refresh_from_db()
        assert clearing.hold_code == "contents_differ"

        clearing = done_by_two(clearing, K.RELEASE_HOLD)

        assert (clearing.state, clearing.hold_code, clearing.error_code) == (State.PARKED, HELD, HELD)
        assert void(clearing).bookings == []

    def test_it_survives_one_that_comes_after_it(self, world: World, voided: int) -> None:
        tell(ORDER_ID)
        clearing = self.held_otherwise(world, voided)
        assert clearing.hold_code == "contents_differ"

        clearing = done_by_two(clearing, K.RELEASE_HOLD)

        assert (clearing.state, clearing.hold_code) == (State.PARKED, HELD)


class TestTheSameListAgain:
    def test_changes_nothing(self, world: World, voided: int) -> None:
        tell(ORDER_ID)
        clearing = come_again(world, voided)
        first = tell(ORDER_ID)
        held_at = Clearing.objects.get(pk=clearing.pk).held_at

        second = tell(ORDER_ID, ORDER_ID)

        assert first.held == second.held[:1] == [ORDER_ID]
        assert (Clearing.objects.get(pk=clearing.pk).held_at, VoidedBefore.objects.count()) == (held_at, 1)
        assert clearing.history.filter(to_state=State.PARKED).count() == 1

    def test_does_not_hold_what_two_people_released(self, world: World, voided: int) -> None:
        tell(ORDER_ID)
        clearing = done_by_two(come_again(world, voided), K.RELEASE_HOLD)

        assert tell(ORDER_ID).released == [ORDER_ID]
        assert Clearing.objects.get(pk=clearing.pk).hold_code == ""

    def test_holds_it_after_another_restore(self, world: World, voided: int) -> None:
        tell(ORDER_ID)
        clearing = done_by_two(come_again(world, voided), K.RELEASE_HOLD, later=LATER)
        VoidedBefore.objects.update(released_at=RestorePoint.objects.latest("at").at)
        recovery.mark_restored(now_ms(), reason="another", actor="test")

        assert tell(ORDER_ID).held == [ORDER_ID]
        assert Clearing.objects.get(pk=clearing.pk).hold_code == HELD

    def test_leaves_one_that_the_backup_holds_as_voided(self, world: World, settings: Settings) -> None:
        clearing = parked_at_2(world, settings, now_ms())
        void(clearing)

        assert tell(ORDER_ID).voided == [ORDER_ID]
