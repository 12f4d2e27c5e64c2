"""Orders that are older, when they are first accepted, than the counterparties keep keys (design,
rule 15): another database may have run them, and its keys may be forgotten.
"""

import pytest
from django.db import transaction
from pytest_django import Settings

from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions import requests
from clearing.models import Clearing, RestorePoint
from clearing.status import OperationState, State
from tests.clearing.people import K, done_by_two
from tests.clearing.restored import HOUR_MS, now_ms, to_the_end
from tests.support.orders import World, operation, outcomes

DIRECTIONS = pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])


def too_old(settings: Settings) -> int:
    return now_ms() - int(settings.KEY_RETENTION_SECONDS) * 1000 - HOUR_MS


class TestAnOrderOlderThanKeysAreKept:
    @DIRECTIONS
    def test_is_asked_for_and_parks_where_its_key_is_not_known(self, world: World, settings: Settings, direction: str) -> None:
        clearing = world.run(world.accept(direction=direction, created_ms=too_old(settings)))

        assert not RestorePoint.objects.exists()
        assert (clearing.state, clearing.error_code, world.keys_applied(clearing)) == (State.PARKED, "key_expired", [])
        assert outcomes(clearing) == [(1, "?unknown", "key_expired")]

    @pytest.mark.parametrize("in_place", [True, False])
    def test_that_another_database_had_cleared_is_only_asked_for(self, world: World, settings: Settings, in_place: bool) -> None:
        settings.CLEARING_RUN_STEPS_INLINE = in_place
        number, created_ms = 900_101, too_old(settings)
        self._cleared_elsewhere(world, settings, number, created_ms)
        applied = list(world.counterparties.applied)

        clearing = to_the_end(world, world.accept(number=number, created_ms=created_ms))

        assert clearing.state == State.CLEARED
        assert outcomes(clearing) == [(step, "?done", "") for step in (1, 2, 3, 4)]
        assert world.counterparties.applied == applied

    def test_that_another_database_had_begun_parks_at_the_first_step_that_is_not_known(self, world: World, settings: Settings) -> None:
        number, created_ms = 900_102, too_old(settings)
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.UNREACHABLE), times=2)
        self._cleared_elsewhere(world, settings, number, created_ms, ends=State.RETRYING)

        clearing = to_the_end(world, world.accept(number=number, created_ms=created_ms))

        assert (clearing.state, clearing.step, clearing.error_code) == (State.PARKED, 3, "key_expired")
        assert world.keys_applied(clearing) == ["1", "2"]

    def test_goes_on_once_two_people_have_said_that_it_was_not_done(self, world: World, settings: Settings) -> None:
        clearing = world.run(world.accept(created_ms=too_old(settings)))
        done_by_two(clearing, K.CONFIRM_NOT_DONE)
        requests.retry_by_hand(clearing.pk, actor="anna", reason="it is an order of ours")

        cleared = world.run(clearing)

        assert (cleared.state, cleared.restored) == (State.CLEARED, False)
        assert [found[1] for found in outcomes(cleared)[-3:]] == ["done"] * 3

    def _cleared_elsewhere(self, world: World, settings: Settings, number: int, created_ms: int, ends: State = State.CLEARED) -> None:
        """Another database ran the order while it was young, and is gone."""
        kept = settings.KEY_RETENTION_SECONDS
        backup = transaction.savepoint()
        settings.KEY_RETENTION_SECONDS = 2 * kept
        assert to_the_end(world, world.accept(number=number, created_ms=created_ms)).state == ends
        settings.KEY_RETENTION_SECONDS = kept
        transaction.savepoint_rollback(backup)


class TestAYoungerOne:
    def test_is_sent_at_once(self, world: World, settings: Settings) -> None:
        clearing = world.accept(created_ms=now_ms() - settings.KEY_RETENTION_SECONDS * 1000 + HOUR_MS)

        assert (clearing.restored, operation(clearing, 1).state) == (False, OperationState.PLANNED)
        assert outcomes(world.run(clearing)) == [(step, "done", "") for step in (1, 2, 3, 4)]

    def test_of_one_batch_is_told_from_an_old_one(self, world: World, settings: Settings) -> None:
        young, old = world.accept("1"), world.accept("2", created_ms=too_old(settings))

        assert dict(Clearing.objects.values_list("pk", "restored")) == {young.pk: False, old.pk: True}
