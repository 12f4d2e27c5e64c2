"""After a restore: what people did in the forgotten time, of which the database holds nothing,
isn't voided away nor done twice.
"""

from decimal import Decimal

import pytest
from pytest_django import Settings

from base.clock import shift_clock
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions import requests
from clearing.interventions.case import Case, load
from clearing.interventions.requests import approve, request_approval, retry_by_hand
from clearing.models import Clearing, Intervention
from clearing.status import InterventionState, OperationState, State
from clearing.store.interventions import NotPossible
from clearing.store.restored import restore_facts
from tests.clearing.people import ANN, BEN, LATER, REASON, K, asked, done_by_two
from tests.clearing.restored import HOUR_MS, NUMBER, forgotten, now_ms
from tests.support.orders import World, operation


def query_only(world: World, clearing: Clearing) -> Clearing:
    retry_by_hand(clearing.pk, actor="ann", reason="before it is voided", query_only=True)
    return world.run(clearing)


def rejected_before(world: World, created_ms: int, *, then_cleared: bool) -> Clearing:
    """Rejected at step 2 before the backup's end; retried and cleared in the forgotten time, or
    left alone; restored, found rejected again.
    """
    with forgotten():
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
        clearing = world.run(world.accept(direction="CLOSE", number=NUMBER, created_ms=created_ms))
        if then_cleared:
            retry_by_hand(clearing.pk, actor="ann", reason="funded now")
            assert world.run(clearing).state == State.CLEARED
    clearing = world.run(world.accept(direction="CLOSE", number=NUMBER, created_ms=created_ms))
    assert (clearing.state, clearing.step, operation(clearing, 2).state) == (State.PARKED, 2, OperationState.REJECTED)
    return clearing


class TestAVoid:
    def test_is_not_asked_for_while_a_forgotten_retry_may_have_been_done(self, world: World) -> None:
        clearing = rejected_before(world, now_ms(), then_cleared=True)

        with pytest.raises(NotPossible, match=":2:r1 first"):
            asked(clearing, K.VOID)

    def test_is_not_approved_either(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = rejected_before(world, now_ms(), then_cleared=True)
        with monkeypatch.context() as patched:
            patched.setattr(requests, "consequences_of", lambda *_: None)
            pk = request_approval(clearing.pk, K.VOID, operator=ANN, reason=REASON)
        shift_clock(LATER)

        with pytest.raises(NotPossible, match=":2:r1 first"):
            approve(pk, operator=BEN)

        shift_clock(0)
        clearing.refresh_from_db()
        assert (clearing.state, Intervention.objects.get(pk=pk).state) == (State.PARKED, InterventionState.REQUESTED)

    def test_is_not_needed_where_the_next_key_was_done(self, world: World) -> None:
        clearing = rejected_before(world, now_ms(), then_cleared=True)
        applied = list(world.counterparties.applied)

        clearing = query_only(world, clearing)

        assert operation(clearing, 2).state == OperationState.DONE
        assert (clearing.state, clearing.step, clearing.hold_code) == (State.PARKED, 3, "only_asked")
        assert world.counterparties.applied == applied

        done_by_two(clearing, K.RELEASE_HOLD)

        assert world.run(clearing).state == State.CLEARED
        assert world.counterparties.applied == applied

    def test_is_possible_once_nobody_knows_the_next_key(self, world: World) -> None:
        clearing = rejected_before(world, now_ms(), then_cleared=False)
        applied = list(world.counterparties.applied)

        clearing = query_only(world, clearing)

        assert (clearing.state, clearing.error_code, operation(clearing, 2).key[-5:]) == (State.PARKED, "only_asked", ":2:r1")
        assert world.counterparties.applied == applied

        done_by_two(clearing, K.CONFIRM_NOT_DONE)

        assert done_by_two(clearing, K.VOID).state == State.VOIDED

    def test_of_a_partial_execution_has_the_next_part_asked_for(self, world: World, settings: Settings) -> None:
        settings.CLEARING_PARTS_MAX = 1
        created = now_ms()
        with forgotten():
            world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")))
            clearing = world.run(world.accept(number=NUMBER, created_ms=created))
            retry_by_hand(clearing.pk, actor="ann", reason="the rest, too")
            assert world.run(clearing).state == State.CLEARED
        clearing = world.run(world.accept(number=NUMBER, created_ms=created))
        assert (clearing.state, clearing.error_code) == (State.PARKED, "partial_execution")

        with pytest.raises(NotPossible, match=r":3\.2 first"):
            asked(clearing, K.VOID)

        clearing = query_only(world, clearing)
        assert len(load(clearing.pk).bookings()) > 0
        assert (clearing.step, clearing.state) == (4, State.PARKED)

    def test_of_one_that_has_sold_all_for_nothing_needs_no_question(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = rejected_before(world, now_ms(), then_cleared=False)
        monkeypatch.setattr(Case, "_nothing_left", lambda _: True)

        assert asked(clearing, K.VOID)

    def test_of_an_order_that_no_restore_has_marked_needs_no_question(self, world: World) -> None:
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
        clearing = world.run(world.accept())

        with pytest.raises(NotPossible, match="only a parked order from before a restore"):
            retry_by_hand(clearing.pk, actor="ann", reason="for nothing", query_only=True)

        assert asked(clearing, K.VOID)


class TestAHoldThatWasThere:
    def test_stays_when_the_next_key_is_asked_for(self, world: World) -> None:
        clearing = rejected_before(world, now_ms(), then_cleared=False)
        Clearing.objects.filter(pk=clearing.pk).update(hold_code="contents_differ", held_at="2026-01-01T00:00:00Z")

        clearing = query_only(world, clearing)

        assert (clearing.state, clearing.hold_code, clearing.error_code) == (State.PARKED, "contents_differ", "contents_differ")


class TestAnOrderThatIsOlderThanKeysAreKept:
    def test_is_sent_once_people_have_confirmed_that_it_was_not_done(self, world: World, settings: Settings) -> None:
        with forgotten():
            pass
        clearing = world.run(world.accept(created_ms=now_ms() - settings.KEY_RETENTION_SECONDS * 1000 - HOUR_MS))
        assert (clearing.state, clearing.error_code) == (State.PARKED, "key_expired")
        done_by_two(clearing, K.CONFIRM_NOT_DONE)

        retry_by_hand(clearing.pk, actor="ann", reason="not done there")
        clearing = world.run(clearing)

        assert (clearing.state, clearing.restored) == (State.CLEARED, False)
        assert world.keys_applied(clearing) == ["1:r100", "2", "3", "4"]

    def test_keeps_its_mark_where_the_confirmation_is_older_than_the_restore(self, world: World) -> None:
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.RESET))
        clearing = world.run(world.accept(created_ms=now_ms()))
        shift_clock(LATER)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)
        approve(pk, operator=BEN)
        shift_clock(0)
        clearing.refresh_from_db()
        shift_clock(LATER * 2)
        with forgotten():
            pass
        shift_clock(0)

        assert not restore_facts([clearing.pk])[clearing.pk].confirmed_not_done
        retry_by_hand(clearing.pk, actor="ann", reason="not done there")

        clearing.refresh_from_db()
        assert (clearing.restored, operation(clearing, 2).key[-5:], operation(clearing, 2).state) == (True, ":2:r1", OperationState.UNKNOWN)
