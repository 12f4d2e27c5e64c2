"""A worker that was frozen, and was marked dead wakes up: what it learned is kept, whatever
was done in its place meanwhile.
"""

from dataclasses import dataclass
from decimal import Decimal

import pytest
from django.db import transaction
from pytest_django import Settings

from base.clock import shift_clock
from base.db import call
from clearing.dispatch import publish
from clearing.flow.flows import Parks, Planned, after
from clearing.gateways import Action, Done, Exchanged
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import approve, request_approval, retry_by_hand
from clearing.models import Clearing
from clearing.policy.backoff import Reaction
from clearing.status import InterventionKind, OperationState, Outcome, State
from clearing.store import claims, interventions, recovery
from clearing.store.claims import Evidence, Work
from clearing.store.interventions import NotPossible, Operator, OutsideEvidence
from tests.support.beside import beside, until_somebody_waits_for_a_lock
from tests.support.orders import World, operation, outcomes

NEARLY_POISON = 4  # deaths: one more parks it
ANN, BOB = Operator("ann", 1), Operator("bob", 2)
PHONE = OutsideEvidence("ref-1", document="by phone")


@dataclass
class Sleeper:
    """A worker that has claimed an order, and made its call."""

    clearing: Clearing
    work: Work
    done: Done[object]

    @property
    def evidence(self) -> Evidence:
        return Evidence(Outcome.DONE, self.work.clock.measured_at, response=self.done.body)

    def following(self) -> Planned | Parks:
        exchanges = (self.done.result,) if isinstance(self.done.result, Exchanged) else ()
        following = after(self.work.flow, self.work.order, self.work.step, exchanges, part=self.work.part)
        assert isinstance(following, (Planned, Parks))
        return following

    def records_its_step(self) -> claims.Recorded:
        following = self.following()
        assert isinstance(following, Planned)
        return claims.step_done(self.work, self.evidence, following, exchanges=(), in_place=True, generation="")

    def parks_its_step(self) -> claims.Recorded:
        following = self.following()
        assert isinstance(following, Parks)
        return self.settles(following.code)

    def settles(self, code: str) -> claims.Recorded:
        evidence = Evidence(Outcome.DONE, self.work.clock.measured_at, code=code, response=self.done.body)
        return claims.settle(self.work, evidence, Reaction(State.PARKED, OperationState.DONE), counted=False, generation="")


def marked_dead(name: str) -> None:
    call("UPDATE base_incarnation SET ended_at = service_now(), \"end\" = 'dead' WHERE name = %s RETURNING name", [name])


def swept(clearing: Clearing) -> Clearing:
    recovery.requeue([clearing.pk], actor="sweep", generation="")
    clearing.refresh_from_db()
    return clearing


def claimed(clearing: Clearing, *, deaths: int = 0) -> Work:
    """Claimed by a worker of its own, which is registered."""
    Clearing.objects.filter(pk=clearing.pk).update(deaths=deaths)
    clearing.refresh_from_db()
    name = f"sleeper-{clearing.pk}-{clearing.epoch}"
    call("INSERT INTO base_incarnation (name, role, host, pid, version) VALUES (%s, 'worker', 'h', 1, '') RETURNING name", [name])
    work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: name, gives_up=lambda: True, isolated=True)
    assert work is not None
    return work


def falls_asleep(world: World, clearing: Clearing, *, deaths: int = 0) -> Sleeper:
    work = claimed(clearing, deaths=deaths)
    done = world.counterparties.gateways().perform(work.stored, work.clock)
    marked_dead(work.worker)
    return Sleeper(clearing, work, done)


@pytest.fixture
def at_the_exchange(world: World) -> Clearing:
    """An order that is queued for its third step."""
    world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.UNREACHABLE), times=2)
    clearing = world.run(world.accept())
    assert (clearing.state, clearing.step) == (State.RETRYING, 3)
    shift_clock(120)
    recovery.requeue([clearing.pk], actor="sweep", generation=publish.generation())
    shift_clock(0)
    return clearing


class TestParkedAsPoisonMeanwhile:
    """A sweep parks poison under the claim's own epoch: the row alone doesn't tell who parked
    it.
    """

    @pytest.fixture
    def sleeper(self, world: World, at_the_exchange: Clearing, settings: Settings) -> Sleeper:
        settings.CLEARING_PARTS_MAX = 1
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.999")))
        found = falls_asleep(world, at_the_exchange, deaths=NEARLY_POISON)
        swept(found.clearing)
        assert (found.clearing.state, found.clearing.error_code) == (State.PARKED, "poison")
        return found

    def test_a_step_that_parks_is_evidence_and_no_more(self, sleeper: Sleeper) -> None:
        assert sleeper.parks_its_step().outcome == "lost"

        sleeper.clearing.refresh_from_db()
        assert (sleeper.clearing.error_code, operation(sleeper.clearing, 3).state) == ("poison", OperationState.UNKNOWN)
        assert outcomes(sleeper.clearing)[-1] == (3, "done", "partial_execution")

    def test_so_nobody_may_say_that_it_was_not_done(self, sleeper: Sleeper) -> None:
        sleeper.parks_its_step()
        shift_clock(120)
        intervention = request_approval(
            sleeper.clearing.pk, InterventionKind.CONFIRM_NOT_DONE, operator=ANN, reason="not in their books", evidence=PHONE
        )

        with pytest.raises(NotPossible, match="has answered that the operation was done"):
            approve(intervention, operator=BOB)

    def test_and_a_retry_takes_the_answer(self, world: World, sleeper: Sleeper) -> None:
        sleeper.parks_its_step()
        retry_by_hand(sleeper.clearing.pk, actor="ann", reason="mended")
        Clearing.objects.filter(pk=sleeper.clearing.pk).update(deaths=0)

        world.run(sleeper.clearing)

        assert world.keys_applied(sleeper.clearing).count("3") == 1
        assert "3:r1" not in world.keys_applied(sleeper.clearing)


class TestConfirmedByPeopleMeanwhile:
    """People confirm a step of an order that was parked as poison, and write down the next one,
    under the claim's own epoch.
    """

    def test_its_answer_is_kept_beside_theirs(self, world: World) -> None:
        sleeper = falls_asleep(world, world.accept(), deaths=NEARLY_POISON)
        swept(sleeper.clearing)
        claims.hold(sleeper.clearing.order.order_id, "contents_differ", actor="test", generation="")
        shift_clock(120)
        approve(
            request_approval(sleeper.clearing.pk, InterventionKind.CONFIRM_DONE, operator=ANN, reason="in their books", evidence=PHONE), operator=BOB
        )
        shift_clock(0)
        sleeper.clearing.refresh_from_db()
        assert (sleeper.clearing.state, sleeper.clearing.step) == (State.PARKED, 2)

        recorded = sleeper.records_its_step()

        assert recorded.outcome == "lost"
        assert outcomes(sleeper.clearing) == [(1, "lost", "claim_lost"), (1, "done", "")]

    def test_a_mistake_at_a_confirmed_step_is_not_taken_for_the_parking_as_poison(self, world: World) -> None:
        clearing = world.accept()
        clearing.operations.update(state=OperationState.DONE)  # as people leave the last step
        work = claimed(clearing, deaths=NEARLY_POISON)
        marked_dead(work.worker)
        swept(clearing)

        recorded = interventions.park_confirmed(work, "internal_error", generation="")

        clearing.refresh_from_db()
        assert (recorded.outcome, clearing.state, clearing.error_code) == ("lost", State.PARKED, "poison")


class TestTakenBackWhileItCommits:
    def test_it_is_the_next_step_that_is_in_doubt(self, busy_world: World) -> None:
        sleeper = falls_asleep(busy_world, busy_world.accept())

        with transaction.atomic():
            recorded = sleeper.records_its_step()
            sweeper, _ = beside(lambda: swept(sleeper.clearing))
            until_somebody_waits_for_a_lock()
        sweeper.join(30)

        sleeper.clearing.refresh_from_db()
        assert (recorded.outcome, sleeper.clearing.state, sleeper.clearing.step) == (State.RUNNING, State.QUEUED, 2)
        assert operation(sleeper.clearing, 2).state == OperationState.UNKNOWN
        assert operation(sleeper.clearing, 2).first_sent_at is not None
        assert outcomes(sleeper.clearing) == [(1, "done", ""), (2, "lost", "claim_lost")]

    def test_also_a_further_part_of_the_exchange(self, busy_world: World) -> None:
        busy_world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.UNREACHABLE), times=2)
        clearing = busy_world.run(busy_world.accept())
        shift_clock(120)
        swept(clearing)
        shift_clock(0)
        busy_world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")))
        sleeper = falls_asleep(busy_world, clearing)

        with transaction.atomic():
            sleeper.records_its_step()
            sweeper, _ = beside(lambda: swept(clearing))
            until_somebody_waits_for_a_lock()
        sweeper.join(30)

        assert operation(clearing, 3).part == 2
        assert operation(clearing, 3).state == OperationState.UNKNOWN
        assert [(a.operation.part, a.outcome) for a in operation(clearing, 3).tries.all()] == [(2, "lost")]
