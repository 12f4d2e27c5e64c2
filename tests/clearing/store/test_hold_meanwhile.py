"""A hold that is set while an operation is out or its step is being recorded parks the order behind
it.
"""

import threading

import pytest
from django.db import OperationalError, connection, transaction

from base import db
from clearing.dispatch import broker
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import retry_by_hand
from clearing.status import OperationState, State
from clearing.store import claims
from clearing.store.interventions import NotPossible
from tests.clearing.work import claimed, done
from tests.support.beside import beside, until_somebody_waits_for_a_lock
from tests.support.orders import World, operation


class TestHeld:
    def test_what_the_counterparty_does_not_know_is_not_sent_again(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
        clearing = world.run(world.accept())
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        clearing = world.when_due(clearing)

        assert (clearing.state, clearing.error_code, world.keys_applied(clearing)) == (State.PARKED, "contents_differ", [])
        assert operation(clearing, 1).state == OperationState.UNKNOWN

    def test_what_it_has_done_is_taken_before_the_order_parks(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.APPLY_THEN_RESET))
        clearing = world.run(world.accept())
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        clearing = world.when_due(clearing)

        assert (clearing.state, clearing.step, world.keys_applied(clearing)) == (State.PARKED, 2, ["1"])


class TestHoldAtTheSameMoment:
    def test_a_held_order_is_not_retried_however_stale_the_page(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        monkeypatch.setattr("clearing.interventions.requests.require", lambda *_: None)

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
                recorded.append(claims.step_done(work, evidence, following, exchanges=(), in_place=True, generation="").outcome)
            finally:
                connection.close()

        with transaction.atomic():
            claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
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
            claims.hold(order_id, "contents_differ", actor="test", generation="")
            step, _ = beside(lambda: claims.step_done(work, evidence, following, exchanges=(), in_place=True, generation=""))
            until_somebody_waits_for_a_lock()
            second, _ = beside(lambda: claims.hold(order_id, "deleted_at_counter", actor="test", generation=""))
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

    monkeypatch.setattr(claims, "call", watched)
    return ended
