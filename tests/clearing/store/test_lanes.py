"""Lanes: one user's orders one after another, and nobody waits for another user; also when
everything happens at the same moment.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from django.db import IntegrityError, connection, transaction

from clearing.dispatch import broker
from clearing.flow.amounts import ZERO
from clearing.flow.fills import Residue
from clearing.gateways import Action, Done, Gateways, Result, SigningClock, StoredRequest
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Clearing
from clearing.status import ACTIVE, Outcome, State
from clearing.store import claims, recovery
from clearing.store.claims import Evidence, Recorded
from clearing.store.recovery import Requeued
from tests.support.beside import beside, until_somebody_waits_for_a_lock
from tests.support.orders import RECENT_MS, World, history, interrupted, outcomes
from tests.support.states import any_transition
from tests.support.waiting import wait_until


def states(*clearings: Clearing) -> list[str]:
    for clearing in clearings:
        clearing.refresh_from_db()
    return [clearing.state for clearing in clearings]


class TestOrder:
    def test_only_the_first_of_a_user_is_queued(self, world: World) -> None:
        first, second, other = world.accept("1"), world.accept("1"), world.accept("2")

        assert states(first, second, other) == [State.QUEUED, State.WAITING, State.QUEUED]

    def test_the_next_is_the_oldest_by_the_counters_time_not_by_arrival(self, world: World) -> None:
        running = world.accept("1", created_ms=RECENT_MS + 1_000)
        younger, older = world.accept("1", created_ms=RECENT_MS + 3_000), world.accept("1", created_ms=RECENT_MS + 2_000)

        world.run(running)

        assert [effect.order_id for effect in world.counterparties.applied][4::4] == [older.order.order_id, younger.order.order_id]

    def test_an_order_older_than_one_that_has_started_is_marked_late_and_runs_next(self, world: World) -> None:
        started = world.accept("1", created_ms=RECENT_MS + 5_000)
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.APPLY_THEN_TIMEOUT))
        world.run(started)
        waiting, late = world.accept("1", created_ms=RECENT_MS + 6_000), world.accept("1", created_ms=RECENT_MS + 4_000)

        world.when_due(started)

        assert [effect.order_id for effect in world.counterparties.applied][4::4] == [late.order.order_id, waiting.order.order_id]
        late.order.refresh_from_db()
        waiting.order.refresh_from_db()
        assert (late.order.late, waiting.order.late) == (True, False)

    def test_the_database_refuses_two_active_ones(self, world: World) -> None:
        world.accept("1")
        second = world.accept("1")

        with pytest.raises(IntegrityError, match="clearing_one_active_per_user"), transaction.atomic():
            Clearing.objects.filter(pk=second.pk).update(state=State.QUEUED)


def park(clearing: Clearing) -> None:
    """By a hold, as intake sets it."""
    claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation=broker.last_generation())


class TestAcceptedTogether:
    """Orders of many users in one transaction: whoever has an empty lane gets it at once, whoever
    hasn't is judged as if the order came alone.
    """

    def test_the_oldest_of_each_user_is_queued_and_published_whatever_order_they_come_in(self, world: World) -> None:
        (young, old, other, middle), refs = world.accept_together(("1", "A", 3_000), ("1", "B", 1_000), ("2", "C", 9_000), ("1", "D", 2_000))

        assert states(young, old, other, middle) == [State.WAITING, State.QUEUED, State.QUEUED, State.WAITING]
        assert {(ref.id, ref.epoch) for ref in refs} == {(old.pk, 1), (other.pk, 1)}

    def test_of_the_same_millisecond_the_lower_sequence_is_queued(self, world: World) -> None:
        (first, second), _ = world.accept_together(("1", "A", 1_000), ("1", "B", 1_000))

        assert states(first, second) == [State.QUEUED, State.WAITING]

    def test_the_history_is_that_of_an_order_that_waited_and_was_promoted(self, world: World) -> None:
        broker.read_generation()  # inside the test's transaction nobody asks for it

        (head, behind), _ = world.accept_together(("1", "A", 1_000), ("1", "B", 2_000))

        assert history(head) == [("", "waiting", 1), ("waiting", "queued", 1)]
        assert history(behind) == [("", "waiting", 1)]
        assert (head.epoch, head.queued_at is not None, head.broker_generation != "") == (1, True, True)
        assert (behind.epoch, behind.queued_at, behind.broker_generation) == (0, None, "")

    def test_who_has_an_active_order_waits_though_it_is_older(self, world: World) -> None:
        active = world.accept("1", created_ms=RECENT_MS + 5_000)

        (older, others), refs = world.accept_together(("1", "A", 1_000), ("2", "B", 1_000))

        assert states(active, older, others) == [State.QUEUED, State.WAITING, State.QUEUED]
        assert [ref.id for ref in refs] == [others.pk]

    def test_cleared_orders_leave_a_lane_empty(self, world: World) -> None:
        world.run(world.accept("1"))

        (following,), refs = world.accept_together(("1", "A", 0))

        assert states(following) == [State.QUEUED]
        assert [ref.id for ref in refs] == [following.pk]

    def test_behind_a_parked_order_those_of_its_contract_wait_and_the_oldest_of_the_others_goes(self, world: World) -> None:
        parked = world.accept("1", contract_id="P", created_ms=RECENT_MS + 1_000)
        park(parked)

        (same_contract, next_one, last, elsewhere), refs = world.accept_together(
            ("1", "P", 2_000), ("1", "A", 3_000), ("1", "B", 4_000), ("2", "P", 5_000)
        )

        assert states(parked, same_contract, next_one, last) == [State.PARKED, State.WAITING, State.QUEUED, State.WAITING]
        assert {ref.id for ref in refs} == {next_one.pk, elsewhere.pk}

    def test_an_older_order_that_waits_goes_before_the_new_ones(self, world: World) -> None:
        parked = world.accept("1", contract_id="P", created_ms=RECENT_MS + 1_000)
        park(parked)
        waiting = world.accept("1", contract_id="P", created_ms=RECENT_MS + 2_000)
        with any_transition():
            Clearing.objects.filter(pk=parked.pk).update(state=State.CLEARED)  # its wake-up lost, as nothing should lose it

        (new,), refs = world.accept_together(("1", "A", 3_000))

        assert states(waiting, new) == [State.QUEUED, State.WAITING]
        assert [ref.id for ref in refs] == [waiting.pk]


def at_once(*acts: Callable[[], object]) -> None:
    """Runs all at the same moment, each with a connection of its own."""
    barrier = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> None:
        try:
            barrier.wait(10)
            act()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(acts)) as pool:
        for future in [pool.submit(run, act) for act in acts]:
            future.result()


@pytest.mark.django_db(transaction=True)
class TestSameMoment:
    def test_five_copies_of_a_message_do_each_step_once(self, busy_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """The one that has the claim stands in its first call until the others have found it
        taken.
        """
        clearing = busy_world.accept()
        calls, goes_on = threading.Event(), threading.Event()
        perform = Gateways.perform

        def held(self: Gateways, stored: StoredRequest, clock: SigningClock) -> Done[Result]:
            calls.set()
            assert goes_on.wait(60)
            return perform(self, stored, clock)

        monkeypatch.setattr(Gateways, "perform", held)
        copies = [beside(partial(busy_world.runner().run, clearing.pk, clearing.epoch)) for _ in range(5)]
        try:
            assert calls.wait(30)
            wait_until(lambda: [thread.is_alive() for thread, _ in copies].count(False) == 4)
        finally:
            goes_on.set()
            for thread, _ in copies:
                thread.join(30)

        assert states(clearing) == [State.CLEARED]
        assert busy_world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert outcomes(clearing) == [(step, "done", "") for step in (1, 2, 3, 4)]

    def test_one_clears_while_another_of_its_user_is_accepted(self, busy_world: World) -> None:
        for _ in range(15):
            first = busy_world.accept("1")

            at_once(partial(busy_world.run, first), partial(busy_world.accept, "1"))

            last = Clearing.objects.latest("pk")
            assert states(first) == [State.CLEARED]
            assert states(last)[0] in {State.QUEUED, State.CLEARED}
            busy_world.run(last)

    def test_orders_of_many_users_accepted_at_once_don_t_deadlock(self, busy_world: World) -> None:
        at_once(*[lambda: [busy_world.accept(str(user)) for user in range(8)] for _ in range(6)])

        assert Clearing.objects.filter(state__in=ACTIVE).count() == 8
        assert Clearing.objects.count() == 48

    def test_two_sweeps_at_once_take_a_claim_back_once(self, busy_world: World) -> None:
        clearings = [busy_world.accept(str(user)) for user in range(10)]
        for clearing in clearings:
            claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead", gives_up=lambda: True)
        Clearing.objects.update(claimed_until=clearings[0].accepted_at)
        found: list[int] = []

        def sweep() -> None:
            taken = recovery.requeue(interrupted(), actor="sweep", generation="")
            found.extend(row.ref.id for row in taken if row.ref)

        at_once(sweep, sweep, sweep)

        assert sorted(found) == sorted(clearing.pk for clearing in clearings)
        assert set(Clearing.objects.values_list("state", "epoch")) == {(State.QUEUED, 2)}


@pytest.mark.django_db(transaction=True)
class TestLocks:
    """Clearing A and accepting B at the same moment, and who takes its locks first: each step by
    step, not by luck.
    """

    def last_step(self, world: World) -> tuple[Clearing, Callable[[], Recorded]]:
        """An order at its last step, claimed, and the recording of its end."""
        world.stopping = lambda: len(world.counterparties.applied) >= 3
        clearing = world.run(world.accept("1"))
        work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        evidence = Evidence(Outcome.DONE, work.clock.measured_at, response=b"{}")
        return clearing, lambda: claims.finish(work, evidence, Residue(ZERO), generation="")

    def test_an_order_that_is_being_accepted_is_queued_by_the_one_that_is_cleared(self, busy_world: World) -> None:
        clearing, finish = self.last_step(busy_world)

        with transaction.atomic():
            accepted = busy_world.accept("1")
            thread, found = beside(finish)
            thread.join(0.3)
            assert not found, "it was cleared beside an acceptance that it couldn't see"
        thread.join(10)

        assert states(clearing, accepted) == [State.CLEARED, State.QUEUED]

    def test_an_order_that_is_being_cleared_lets_the_one_that_is_accepted_be_queued(self, busy_world: World) -> None:
        clearing, finish = self.last_step(busy_world)

        with transaction.atomic():
            finish()
            thread, found = beside(partial(busy_world.accept, "1"))
            thread.join(0.3)
            assert not found
        thread.join(10)

        assert states(clearing, Clearing.objects.latest("pk")) == [State.CLEARED, State.QUEUED]

    def test_a_finish_that_waits_for_its_lane_holds_no_row_that_a_sweep_could_wait_for(self, busy_world: World) -> None:
        clearing, finish = self.last_step(busy_world)
        Clearing.objects.filter(pk=clearing.pk).update(claimed_until=clearing.accepted_at)

        with transaction.atomic():
            connection.cursor().execute("SELECT clearing_lock_lanes(ARRAY['1'])")
            thread, found = beside(finish)
            thread.join(0.3)
            assert not found
            connection.cursor().execute("SELECT FROM clearing_clearing WHERE id = %s FOR UPDATE NOWAIT", [clearing.pk])
            taken = recovery.requeue([clearing.pk], actor="sweep", generation="")
        thread.join(10)

        (recorded,) = found
        assert isinstance(recorded, Recorded)
        assert ([one.found for one in taken], recorded.outcome, states(clearing)) == ([State.RUNNING], "lost", [State.QUEUED])

    def test_a_sweep_that_waits_for_a_lane_lets_the_finish_be_recorded(self, busy_world: World) -> None:
        clearing, finish = self.last_step(busy_world)
        Clearing.objects.filter(pk=clearing.pk).update(claimed_until=clearing.accepted_at)

        with transaction.atomic():
            finish()
            thread, found = beside(partial(recovery.requeue, [clearing.pk], actor="sweep", generation=""))
            thread.join(0.3)
            assert not found
        thread.join(10)

        assert (found, states(clearing)) == ([[]], [State.CLEARED])

    def test_a_sweep_that_waits_for_another_takes_back_nothing_that_it_took_back(self, busy_world: World) -> None:
        clearing = busy_world.accept("1")
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead", gives_up=lambda: True)
        Clearing.objects.filter(pk=clearing.pk).update(claimed_until=clearing.accepted_at)

        def sweep() -> list[Requeued]:
            return recovery.requeue(interrupted(), actor="sweep", generation="")

        with transaction.atomic():
            first = sweep()
            thread, second = beside(sweep)  # it finds the claim where it was: nothing is committed yet
            until_somebody_waits_for_a_lock()
            assert not second
        thread.join(10)

        assert ([taken.found for taken in first], second) == ([State.RUNNING], [[]])
        clearing.refresh_from_db()
        assert (clearing.state, clearing.epoch, outcomes(clearing)) == (State.QUEUED, 2, [(1, "lost", "claim_lost")])
        assert history(clearing)[-2:] == [("queued", "running", 1), ("running", "queued", 1)]

    def test_a_sweep_that_parks_an_order_lets_the_one_that_is_being_accepted_be_queued(self, busy_world: World) -> None:
        busy_world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.UNREACHABLE), times=2)
        clearing = busy_world.run(busy_world.accept("1"))
        Clearing.objects.filter(pk=clearing.pk).update(hold_code="contents_differ", due_at=clearing.accepted_at)

        with transaction.atomic():
            accepted = busy_world.accept("1")
            thread, found = beside(partial(recovery.requeue, [clearing.pk], actor="sweep", generation=""))
            thread.join(0.3)
            assert not found, "it was parked beside an acceptance that the sweep couldn't see"
        thread.join(10)

        assert states(clearing, accepted) == [State.PARKED, State.QUEUED]
