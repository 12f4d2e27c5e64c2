"""After PostgreSQL was restored from a backup: what it has forgotten is asked for, and no step is
done twice.

The test's transaction goes back to a savepoint, as the database goes back to its backup, while the
counterparties' books stay as they are.
"""

from decimal import Decimal

import pytest
from django.db import OperationalError
from pytest_django import Settings

from base import db
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions import requests
from clearing.models import Clearing, RestorePoint
from clearing.status import OperationState, State
from clearing.store import claims, recovery
from tests.clearing.restored import HOUR_MS, NUMBER, forgotten, now_ms, to_the_end
from tests.support.orders import World, operation, outcomes

ASKED = [(step, "?done", "") for step in (1, 2, 3, 4)]
SENT = [(step, "done", "") for step in (1, 2, 3, 4)]


class TestAnOrderThatTheBackupDoesNotHold:
    @pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
    @pytest.mark.parametrize("in_place", [True, False])
    def test_was_cleared_and_is_only_asked_for(self, world: World, settings: Settings, direction: str, in_place: bool) -> None:
        settings.CLEARING_RUN_STEPS_INLINE = in_place
        created_ms = now_ms()
        with forgotten():
            assert to_the_end(world, world.accept(direction=direction, number=NUMBER, created_ms=created_ms)).state == State.CLEARED
        applied = list(world.counterparties.applied)

        clearing = to_the_end(world, world.accept(direction=direction, number=NUMBER, created_ms=created_ms))

        assert (clearing.state, outcomes(clearing)) == (State.CLEARED, ASKED)
        assert world.counterparties.applied == applied

    def test_was_done_in_part_and_goes_on_from_there(self, world: World) -> None:
        created_ms = now_ms()
        with forgotten():
            world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.UNREACHABLE), times=2)
            assert world.run(world.accept(number=NUMBER, created_ms=created_ms)).state == State.RETRYING

        clearing = world.run(world.accept(number=NUMBER, created_ms=created_ms))

        done = [found for found in outcomes(clearing) if found[1].endswith("done")]
        assert (clearing.state, done) == (State.CLEARED, [*ASKED[:2], *SENT[2:]])
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_was_sold_in_parts_that_are_all_found(self, world: World) -> None:
        created_ms = now_ms()
        partial = Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5"))
        with forgotten():
            world.counterparties.script(Action.EXCHANGE, partial)
            assert world.run(world.accept(number=NUMBER, created_ms=created_ms)).state == State.CLEARED

        clearing = world.run(world.accept(number=NUMBER, created_ms=created_ms))

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "3.2", "4"])

    def test_is_sent_where_nobody_knows_its_key(self, world: World) -> None:
        with forgotten():
            pass

        clearing = world.run(world.accept(created_ms=now_ms()))

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])
        assert [found[1] for found in outcomes(clearing)] == ["?retryable", "done"] * 4

    def test_waits_for_a_person_if_its_key_may_have_been_forgotten(self, world: World, settings: Settings) -> None:
        with forgotten():
            pass

        clearing = world.run(world.accept(created_ms=now_ms() - settings.KEY_RETENTION_SECONDS * 1000 - HOUR_MS))

        assert (clearing.state, clearing.error_code, world.keys_applied(clearing)) == (State.PARKED, "key_expired", [])

    def test_that_is_held_is_asked_for_and_not_sent(self, world: World) -> None:
        with forgotten():
            pass
        clearing = world.accept(created_ms=now_ms())
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        clearing = world.run(clearing)

        assert (clearing.state, clearing.error_code, world.keys_applied(clearing)) == (State.PARKED, "contents_differ", [])
        assert operation(clearing, 1).state == OperationState.UNKNOWN

    def test_of_a_replay_is_asked_for_whatever_its_time(self, world: World) -> None:
        clearing, _ = world.accept_with_refs("1001", created_ms=now_ms() + 24 * HOUR_MS, restored=True)

        assert (clearing.restored, operation(clearing, 1).state) == (True, OperationState.UNKNOWN)

    def test_is_sent_at_once_if_it_is_younger_than_the_restore(self, world: World) -> None:
        with forgotten():
            pass

        clearing = world.run(world.accept(created_ms=now_ms() + 2 * HOUR_MS))

        assert (clearing.restored, outcomes(clearing)) == (False, SENT)


class TestAnOrderOfTheBackup:
    def test_that_was_cleared_since_is_only_asked_for(self, world: World) -> None:
        clearing = world.accept(created_ms=now_ms())
        with forgotten():
            assert world.run(clearing).state == State.CLEARED

        clearing = world.run(Clearing.objects.get(pk=clearing.pk))

        assert (clearing.state, outcomes(clearing)) == (State.CLEARED, ASKED)
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_that_a_dead_worker_held_is_asked_for_when_its_claim_ends(self, world: World) -> None:
        clearing = world.accept(created_ms=now_ms())
        work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "gone", gives_up=lambda: True)
        assert work is not None
        with forgotten():
            world.when_due(clearing)

        clearing = world.when_due(Clearing.objects.get(pk=clearing.pk))

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])

    def test_that_got_a_raised_key_since_is_found_under_it_after_the_same_retry(self, world: World) -> None:
        clearing = world.accept(created_ms=now_ms())
        with forgotten():
            world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE, status=400))
            rejected = world.run(clearing)
            requests.retry_by_hand(rejected.pk, actor="anna", reason="the account has its money now")
            assert world.run(rejected).state == State.CLEARED

        parked = world.run(Clearing.objects.get(pk=clearing.pk))
        found_code = parked.error_code
        requests.retry_by_hand(parked.pk, actor="anna", reason="once more, as before the restore")
        cleared = world.run(parked)

        assert (found_code, cleared.state) == ("insufficient_funds", State.CLEARED)
        assert world.keys_applied(cleared) == ["1", "2:r1", "3", "4"]
        assert [found[1] for found in outcomes(cleared)[-3:]] == ["?done"] * 3

    def test_that_is_cleared_stays_so(self, world: World) -> None:
        clearing = world.run(world.accept(created_ms=now_ms()))
        with forgotten():
            pass

        clearing.refresh_from_db()

        assert (clearing.restored, clearing.state) == (False, State.CLEARED)

    def test_is_marked_however_many_there_are(self, world: World) -> None:
        clearings = [world.accept(str(user), created_ms=now_ms()) for user in range(5)]
        world.run(clearings[2])

        marked = recovery.mark_restored(now_ms(), reason="test", actor="test", limit=2)

        assert (marked, Clearing.objects.filter(restored=True).count(), RestorePoint.objects.count()) == (4, 4, 1)

    def test_is_marked_after_all_when_the_marking_was_interrupted(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        for user in range(4):
            world.accept(str(user), created_ms=now_ms())
        real, batches = db.call, iter([True])

        def dies_after_a_batch(sql: str, params: list[object]) -> object:
            if "clearing_mark_restored" in sql and not next(batches, False):
                raise OperationalError("server closed the connection")
            return real(sql, params)

        with monkeypatch.context() as patched:
            patched.setattr(recovery, "call", dies_after_a_batch)
            with pytest.raises(OperationalError):
                recovery.mark_restored(now_ms(), reason="test", actor="test", limit=2)
        interrupted = Clearing.objects.filter(restored=True).count()

        recovery.mark_restored(now_ms(), reason="test", actor="test", limit=2)

        assert (interrupted, Clearing.objects.filter(restored=True).count()) == (2, 4)

    def test_whose_commit_was_not_answered_is_asked_for_all_the_same(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept(created_ms=now_ms())
        with forgotten():
            world.run(clearing)
        real, lost = db.call, iter([True])

        def answer_lost_once(sql: str, params: list[object]) -> object:
            rows = real(sql, params)
            if "clearing_step_done" in sql and next(lost, False):
                raise OperationalError("server closed the connection")
            return rows

        monkeypatch.setattr(claims, "call", answer_lost_once)
        clearing = world.run(Clearing.objects.get(pk=clearing.pk))

        assert (clearing.state, outcomes(clearing)) == (State.CLEARED, ASKED)
