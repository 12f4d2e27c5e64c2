"""What people decide at the same moment as each other, as an order is accepted, held or cleared,
and as a frozen worker wakes.
"""

import threading
from dataclasses import dataclass, replace

import pytest
from django.db import transaction

from base.clock import shift_clock
from base.desk.roles import APPROVER
from clearing.flow.amounts import ZERO
from clearing.flow.fills import Residue
from clearing.gateways import Adjusted, Done, SigningClock, StoredRequest
from clearing.interventions.requests import approve, retry_by_hand
from clearing.running.runner import Runner
from clearing.status import OperationState, Outcome, State
from clearing.store import claims, recovery
from clearing.store.claims import Evidence, Recorded
from clearing.store.interventions import NotPossible, Operator
from tests.clearing.people import BEN, LATER, K, asked, held, mark_dead, rejected
from tests.support.beside import beside
from tests.support.desk import member
from tests.support.orders import World, history, operation


@pytest.mark.django_db(transaction=True)
class TestSameMoment:
    def test_two_approvals_execute_once(self, busy_world: World) -> None:
        clearing = held(busy_world)
        pk = asked(clearing, K.RELEASE_HOLD)
        people = [BEN, *(Operator(name, member(name, APPROVER).pk) for name in ("cleo", "dan"))]
        approvals = [beside(lambda person=person: approve(pk, operator=person)) for person in people]  # type: ignore[misc]
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
            thread, found = beside(lambda: approve(pk, operator=BEN))
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
            claims.hold(clearing.order.order_id, "deleted_at_counter", actor="test", generation="")
            thread, found = beside(lambda: approve(pk, operator=BEN))
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
            approve(pk, operator=BEN)
            thread, found = beside(lambda: claims.hold(clearing.order.order_id, "deleted_at_counter", actor="test", generation=""))
            thread.join(0.3)
            assert not found
        thread.join(10)

        clearing.refresh_from_db()
        assert (clearing.state, clearing.error_code, clearing.hold_code) == (State.PARKED, "deleted_at_counter", "deleted_at_counter")

    def test_a_parked_order_that_is_retried_while_its_users_next_one_clears_is_queued_once(self, busy_world: World) -> None:
        clearing = rejected(busy_world)
        busy_world.stopping = lambda: len(busy_world.counterparties.applied) >= 4
        following = busy_world.run(busy_world.accept())
        work = claims.claim(following.pk, following.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        assert work.step == 4
        evidence = Evidence(Outcome.DONE, work.clock.measured_at, response=b"{}")

        with transaction.atomic():
            retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up")
            thread, found = beside(lambda: claims.finish(work, evidence, Residue(ZERO), generation=""))
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
        work = claims.claim(following.pk, following.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        evidence = Evidence(Outcome.DONE, work.clock.measured_at, response=b"{}")

        with transaction.atomic():
            claims.finish(work, evidence, Residue(ZERO), generation="")
            thread, found = beside(lambda: retry_by_hand(clearing.pk, actor="cleo", reason="it was topped up"))
            thread.join(0.3)
            assert not found
        thread.join(10)

        clearing.refresh_from_db()
        assert (found, clearing.state) == ([None], State.QUEUED)

    def test_a_worker_that_was_declared_dead_sends_while_two_people_would_void_the_order(self, busy_world: World) -> None:
        """It is frozen between taking the time and sending; nothing that people do is executed
        before its request can't be applied any more.
        """
        clearing = busy_world.accept()
        arrived, goes_on = threading.Event(), threading.Event()
        frozen = FrozenCounter(busy_world, arrived, goes_on)
        thread, _ = beside(lambda: frozen.runner().run(clearing.pk, clearing.epoch))
        assert arrived.wait(10)
        mark_dead("frozen")
        recovery.requeue([clearing.pk], actor="sweep", generation="")
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        clearing = busy_world.run(clearing)
        assert (clearing.state, operation(clearing, 1).state) == (State.PARKED, OperationState.UNKNOWN)
        with pytest.raises(NotPossible, match="not known whether"):
            asked(clearing, K.VOID)
        pk = asked(clearing, K.CONFIRM_NOT_DONE)

        with pytest.raises(NotPossible, match="on its way"):
            approve(pk, operator=BEN)
        goes_on.set()
        thread.join(10)
        shift_clock(LATER)
        with pytest.raises(NotPossible, match="answered"):
            approve(pk, operator=BEN)
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
