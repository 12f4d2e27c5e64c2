"""Orders that were being run when their worker died: after three deaths they run alone, and only
two more there park them.
"""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from base.clock import shift_clock
from base.db import call
from clearing import tasks
from clearing.dispatch import broker, publish
from clearing.dispatch.queues import ISOLATED_QUEUE, RESUME_QUEUE
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing, Pause
from clearing.running.runner import Runner
from clearing.status import OperationState, State
from clearing.store import claims
from ops.recovery.sweep import sweep
from tests.support.orders import World, operation, outcomes


def runs_and_dies(clearing: Clearing, *, end: str = "dead", isolated: bool = False) -> None:
    """A worker claims it and is gone; the sweep takes it back."""
    clearing.refresh_from_db()
    name = f"worker-{clearing.epoch}"
    sql = "INSERT INTO base_incarnation (name, role, host, pid, version) VALUES (%s, 'worker', 'h', 1, '') RETURNING name"
    call(sql, [name])
    assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: name, gives_up=lambda: True, isolated=isolated)
    call('UPDATE base_incarnation SET ended_at = service_now(), "end" = %s WHERE name = %s RETURNING name', [end, name])
    sweep()
    clearing.refresh_from_db()


@pytest.fixture
def suspect(world: World) -> Clearing:
    """Whose workers died three times."""
    broker.read_generation()
    clearing = world.accept()
    for _ in range(3):
        runs_and_dies(clearing)
    return clearing


def isolated_worker(world: World) -> Runner:
    """The worker of one slot."""
    return Runner(lambda: "suspects", world.counterparties.gateways(), lambda: False, world.guard, isolated=True)


class TestSuspect:
    def test_three_deaths_make_one(self, world: World, suspect: Clearing) -> None:
        assert (suspect.state, suspect.deaths) == (State.QUEUED, 3)
        assert (broker.length(ISOLATED_QUEUE), broker.length(RESUME_QUEUE)) == (1, 2)
        assert [change.reason for change in suspect.history.filter(to_state="queued", from_state="running")] == ["worker died"] * 3

    @pytest.mark.parametrize("end", ["stopped"])
    def test_a_worker_that_was_stopped_has_not_died(self, world: World, end: str) -> None:
        clearing = world.accept()

        for _ in range(4):
            runs_and_dies(clearing, end=end)

        assert (clearing.state, clearing.deaths, broker.length(ISOLATED_QUEUE)) == (State.QUEUED, 0, 0)

    def test_a_claim_that_only_expired_is_no_death(self, world: World) -> None:
        clearing = world.accept()
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "slow", gives_up=lambda: True)
        shift_clock(60)

        sweep()

        clearing.refresh_from_db()
        assert (clearing.state, clearing.deaths) == (State.QUEUED, 0)

    def test_no_other_worker_takes_it(self, world: World, suspect: Clearing) -> None:
        world.run(suspect)

        assert suspect.state == State.QUEUED
        assert world.keys_applied(suspect) == []

    def test_clears_when_it_was_not_its_fault(self, world: World, suspect: Clearing) -> None:
        isolated_worker(world).run(suspect.pk, suspect.epoch)
        suspect.refresh_from_db()
        assert (suspect.state, suspect.step, suspect.deaths) == (State.QUEUED, 2, 0)

        world.run(suspect)

        assert suspect.state == State.CLEARED
        assert world.keys_applied(suspect) == ["1", "2", "3", "4"]

    def test_a_result_of_any_kind_clears_its_name(self, world: World, suspect: Clearing) -> None:
        world.counterparties.script("*", Fault(kind=FaultKind.RESET), times=2)

        isolated_worker(world).run(suspect.pk, suspect.epoch)

        suspect.refresh_from_db()
        assert (suspect.state, suspect.deaths) == (State.UNKNOWN, 0)

    def test_what_only_stood_in_the_way_does_not(self, world: World, suspect: Clearing) -> None:
        Pause.objects.create(counterparty="counter", step=0, reason="a test", actor="root")

        isolated_worker(world).run(suspect.pk, suspect.epoch)

        suspect.refresh_from_db()
        assert (suspect.state, suspect.deaths) == (State.UNKNOWN, 3)

    def test_its_users_next_order_does_not_run_there(self, world: World, suspect: Clearing) -> None:
        following = world.accept()
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.REFUSE))

        isolated_worker(world).run(suspect.pk, suspect.epoch)

        suspect.refresh_from_db()
        following.refresh_from_db()
        assert (suspect.state, following.state) == (State.PARKED, State.QUEUED)
        assert world.keys_applied(following) == []

    def test_its_message_is_sent_again_to_its_own_queue(self, world: World, suspect: Clearing) -> None:
        broker.client().flushdb()

        assert sweep()["sent_again"] == 1
        assert broker.length(ISOLATED_QUEUE) == 1

    def test_a_long_queue_of_suspects_is_not_sent_again(self, world: World, suspect: Clearing) -> None:
        shift_clock(600)

        assert sweep()["sent_again"] == 0


class TestPoison:
    def test_one_death_alone_may_be_that_workers_own(self, world: World, suspect: Clearing) -> None:
        runs_and_dies(suspect, isolated=True)

        assert (suspect.state, suspect.deaths) == (State.QUEUED, 4)
        assert broker.length(ISOLATED_QUEUE) == 2

        isolated_worker(world).run(suspect.pk, suspect.epoch)
        suspect.refresh_from_db()
        assert (suspect.state, suspect.step, suspect.deaths) == (State.QUEUED, 2, 0)

    def test_two_deaths_alone_park_it_and_let_the_lane_go_on(self, world: World, suspect: Clearing) -> None:
        following = world.accept()

        runs_and_dies(suspect, isolated=True)
        runs_and_dies(suspect, isolated=True)

        following.refresh_from_db()
        assert (suspect.state, suspect.error_code, suspect.deaths) == (State.PARKED, "poison", 5)
        assert operation(suspect, 1).state == OperationState.UNKNOWN
        assert following.state == State.QUEUED
        assert outcomes(suspect)[-1] == (1, "lost", "claim_lost")

    def test_a_retry_of_it_runs_isolated_again_and_reconciles(self, world: World, suspect: Clearing) -> None:
        for _ in range(2):
            runs_and_dies(suspect, isolated=True)

        retry_by_hand(suspect.pk, actor="ann", reason="fixed in 1.2")
        suspect.refresh_from_db()
        world.run(suspect)
        assert suspect.state == State.QUEUED
        isolated_worker(world).run(suspect.pk, suspect.epoch)

        suspect.refresh_from_db()
        assert suspect.step == 2
        assert outcomes(suspect)[-2:] == [(1, "?retryable", "unknown_key"), (1, "done", "")]


class TestTask:
    def test_knows_by_its_queue_that_it_runs_alone(self, world: World, suspect: Clearing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tasks, "gateways", world.counterparties.gateways)
        monkeypatch.setattr(tasks, "registration", lambda: SimpleNamespace(name="w", outlived=lambda _: False))
        request = SimpleNamespace(chain=[], queued_ms=5, delivery_info={"routing_key": ISOLATED_QUEUE})

        tasks.run_chain(cast("Any", SimpleNamespace(request=request)), 1, suspect.pk, suspect.epoch)

        suspect.refresh_from_db()
        assert suspect.step == 2

    def test_a_stopping_one_hands_it_back_to_its_own_queue(self, world: World, suspect: Clearing, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tasks, "stopping", lambda: True)
        request = SimpleNamespace(chain=[], queued_ms=5, delivery_info={"routing_key": ISOLATED_QUEUE})

        tasks.run_chain(cast("Any", SimpleNamespace(request=request)), 1, suspect.pk, suspect.epoch)

        assert broker.length(ISOLATED_QUEUE) == 2

    def test_every_publish_finds_its_queue(self) -> None:
        ref = claims.ClearingRef(1, 1, 1, 0, 0, isolated=True)

        assert publish.queue_of(ref) == publish.queue_of(ref, RESUME_QUEUE) == ISOLATED_QUEUE
