"""The database enforces `status.py`: whoever writes, every transition in the table is accepted and
every other one is refused by the statement that makes it.
"""

from itertools import product

import pytest
from django.db import IntegrityError, connection, transaction

from clearing import status
from clearing.models import Clearing
from clearing.status import ACTIVE, DUE, FINAL, INITIAL, TRANSITIONS, State
from tests.support.orders import World
from tests.support.states import any_transition, rewritable

ALLOWED = sorted((source, target) for source, targets in TRANSITIONS.items() for target in targets)
# A state that is written again, as a whole row's save does it, is no transition.
FORBIDDEN = [pair for pair in product(State, State) if pair not in ALLOWED and pair[0] != pair[1]]
BY_SQL = "UPDATE clearing_clearing SET state = %s WHERE id = %s"


def found_in(world: World, state: State) -> Clearing:
    """An order in that state, however it came there, with all that any state's row must hold."""
    clearing = world.accept()
    with any_transition():
        fields = {"claimed_until": clearing.accepted_at, "due_at": clearing.accepted_at, "error_code": "a_test"}
        Clearing.objects.filter(pk=clearing.pk).update(state=state, **fields)
    return clearing


def go(clearing: Clearing, state: State) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(BY_SQL, [state, clearing.pk])


@pytest.mark.parametrize(("source", "target"), ALLOWED)
def test_an_allowed_transition_is_accepted(world: World, source: State, target: State) -> None:
    clearing = found_in(world, source)

    go(clearing, target)

    clearing.refresh_from_db()
    assert clearing.state == target


@pytest.mark.parametrize(("source", "target"), FORBIDDEN)
def test_any_other_transition_raises_and_changes_nothing(world: World, source: State, target: State) -> None:
    clearing = found_in(world, source)

    with pytest.raises(IntegrityError, match=f"may not go from {source} to {target}"):
        go(clearing, target)

    clearing.refresh_from_db()
    assert clearing.state == source


@pytest.mark.parametrize("state", State)
def test_a_clearing_begins_in_an_initial_state(world: World, state: State) -> None:
    row = Clearing.objects.get(pk=world.accept().pk)
    with any_transition(), rewritable():  # its order is free for another clearing
        connection.cursor().execute("DELETE FROM clearing_statuschange; DELETE FROM clearing_operation; DELETE FROM clearing_clearing")
    row.pk, row.state, row.error_code = None, state, "a_test"
    row.claimed_until = row.due_at = row.accepted_at

    if state in INITIAL:
        row.save(force_insert=True)
        return
    with pytest.raises(IntegrityError, match=f"may not begin as {state}"), transaction.atomic():
        row.save(force_insert=True)


@pytest.mark.django_db
@pytest.mark.parametrize(("function", "states"), [("active", ACTIVE), ("due", DUE), ("final", FINAL)])
def test_lists_of_states_in_the_database_are_those_of_status(function: str, states: tuple[State, ...]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT clearing_{function}_states()")
        assert cursor.fetchone() == (list(states),)


def test_an_incomplete_table_is_noticed_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TRANSITIONS, State.PENDING)

    with pytest.raises(AssertionError, match="PENDING"):
        status.check_complete()
