"""What no other session can have brought about is the caller's mistake: the functions raise, and
nothing is changed. It is an internal error, and never taken for an outage, which is tried again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from django.db import InternalError, connection, transaction

from base.db import call, is_unavailable
from clearing.flow.amounts import ZERO
from clearing.flow.fills import Residue
from clearing.flow.flows import Planned, after
from clearing.gateways import Action
from clearing.models import Attempt, Clearing, Operation
from clearing.policy.backoff import Reaction
from clearing.status import InterventionKind, OperationState, Outcome, State
from clearing.store import claims, interventions
from clearing.store.claims import Evidence, Work
from clearing.store.interventions import Seen
from tests.clearing.people import ANN, BEN, asked, held, rejected
from tests.support.orders import World, operation


@contextmanager
def refused(says: str) -> Iterator[None]:
    """In the block the caller is refused, in these words, and no clearing, operation or attempt
    changes.
    """
    before = rows()
    with pytest.raises(InternalError, match=says) as caught, transaction.atomic():
        yield
    assert not is_unavailable(caught.value)
    assert rows() == before


def rows() -> list[list[object]]:
    return [list(model._default_manager.order_by("pk").values()) for model in (Clearing, Operation, Attempt)]


@pytest.fixture
def work(world: World) -> Work:
    """A claim on an order's first step, beside another user's order."""
    clearing = world.accept()
    world.accept("2")
    work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
    assert work is not None
    return work


@pytest.fixture
def other(work: Work) -> Operation:
    """The operation of the other order."""
    return Operation.objects.exclude(pk=work.operation_id).get()


def done(work: Work) -> Evidence:
    return Evidence(Outcome.DONE, work.clock.measured_at, response=b"{}")


def following(work: Work) -> Planned:
    planned = after(work.flow, work.order, work.step, ())
    assert isinstance(planned, Planned)
    return planned


def step_done(work: Work, planned: Planned) -> claims.Recorded:
    return claims.step_done(work, done(work), planned, exchanges=(), in_place=True, generation="")


class TestResults:
    def test_a_step_of_another_orders_operation(self, work: Work, other: Operation) -> None:
        with refused("is not one of clearing"):
            step_done(replace(work, operation_id=other.pk), following(work))

    def test_a_next_step_under_another_orders_key(self, work: Work, other: Operation) -> None:
        with refused("belongs to clearing"):
            step_done(work, replace(following(work), key=other.key))

    def test_an_end_by_another_orders_operation(self, work: Work, other: Operation) -> None:
        with refused("is not the one of step 1"):
            claims.finish(replace(work, operation_id=other.pk), done(work), Residue(ZERO), generation="")

    def test_an_attempt_of_another_orders_operation(self, work: Work, other: Operation) -> None:
        unknown = Evidence(Outcome.UNKNOWN, work.clock.measured_at)
        reaction = Reaction(State.UNKNOWN, OperationState.UNKNOWN)

        with refused("is not one of clearing"):
            claims.settle(replace(work, operation_id=other.pk), unknown, reaction, counted=False, generation="")

    @pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.CLEARED, State.VOIDED])
    def test_an_attempt_that_would_leave_it_in_a_state_of_no_attempt(self, work: Work, state: State) -> None:
        unknown = Evidence(Outcome.UNKNOWN, work.clock.measured_at)

        with refused("does not leave a clearing"):
            claims.settle(work, unknown, Reaction(state, OperationState.UNKNOWN), counted=False, generation="")

    def test_an_end_that_nobody_confirmed(self, work: Work) -> None:
        with refused("was not confirmed"):
            interventions.finish_confirmed(work, Residue(ZERO), generation="")


class TestInterventions:
    def seen(self, clearing: Clearing, state: State) -> Seen:
        current = operation(clearing, clearing.step)
        return Seen(clearing.pk, clearing.epoch, state, current.pk, OperationState(current.state), clearing.held_at)

    @pytest.mark.parametrize("state", [State.QUEUED, State.UNKNOWN, State.CLEARED])
    def test_a_retry_of_what_is_not_parked_or_retrying(self, world: World, state: State) -> None:
        clearing = rejected(world, Action.ADJUST)

        with refused("is not retried"):
            interventions.retry(self.seen(clearing, state), None, revision=0, operator=ANN, reason="r", generation="")

    def test_a_retry_of_another_orders_operation(self, world: World) -> None:
        clearing, other = rejected(world, Action.ADJUST), world.accept("2")
        wrong = replace(self.seen(clearing, State.PARKED), operation_id=operation(other, 1).pk)

        with refused("is not one of clearing"):
            interventions.retry(wrong, None, revision=0, operator=ANN, reason="r", generation="")

    def test_an_approval_of_another_kind(self, world: World) -> None:
        pk = asked(held(world), InterventionKind.RELEASE_HOLD)

        with refused("is a release_hold, not a confirm_not_done"):
            interventions.confirm_not_done(pk, operator=BEN, response=b"{}", code="confirmed_not_done")

    def test_a_decision_on_what_does_not_wait(self, world: World) -> None:
        pk = asked(held(world), InterventionKind.RELEASE_HOLD)
        interventions.refuse(pk, operator=BEN, reason="no")

        with refused("does not wait for approval"):
            call("SELECT clearing_decide(%s, 'failed', 'ben', '')", [pk])


class TestLanes:
    def test_a_waiting_order_that_changes_though_its_lane_is_locked(self, world: World) -> None:
        """Only a session that takes no lane's lock could change it between the look at it and its
        UPDATE; here a trigger does.
        """
        user = held(world).user_id
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute("CREATE FUNCTION skip_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
            cursor.execute(
                "CREATE TRIGGER skipped BEFORE UPDATE ON clearing_clearing FOR EACH ROW WHEN (NEW.state = 'queued') EXECUTE FUNCTION skip_row()"
            )

        with refused("without the lane's lock"):
            world.accept(user)
