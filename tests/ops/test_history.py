"""History is written once: whoever asks for a change, the database refuses it."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from base.desk.journal import note
from base.models import Seal
from clearing.dispatch import broker
from clearing.gateways.counterparty_state import set_pause
from clearing.models import Clearing, Intervention
from clearing.status import InterventionState, State
from clearing.store import interventions
from ops.history import HISTORY
from tests.clearing.people import BEN, K, asked, done_by_two, held
from tests.support.desk import ann_and_ben
from tests.support.orders import World
from tests.support.states import rewritable

TABLES = sorted(HISTORY)
MODELS = {model._meta.db_table: model for model in apps.get_models()}


@pytest.fixture
def world(db: None) -> World:
    """A database that has rows in each of the tables."""
    broker.client().flushdb()
    broker.read_generation()
    ann_and_ben()
    world = World()
    clearing = world.run(world.accept())
    user = User.objects.get(username="ann")
    LogEntry.objects.log_actions(user.pk, [clearing], CHANGE, change_message="looked at it")
    set_pause("fund", 0, paused=True, actor="ann", reason="a test")
    asked(held(world), K.RELEASE_HOLD)
    note("signed_in", username="ann")
    Seal.objects.create(number=1, text="{}", root="", signature=b"")
    return world


def run(sql: str, *parameters: Any) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(sql, parameters or None)
        return int(cursor.rowcount)


class TestTheList:
    def test_names_tables_and_columns_of_models(self) -> None:
        for table, kept in HISTORY.items():
            fields = {field.column for field in MODELS[table]._meta.concrete_fields}
            assert {*kept.columns, *filter(None, [kept.column])} <= fields, table

    def test_has_every_model_that_says_so_of_itself(self) -> None:
        said = {
            table
            for table, model in MODELS.items()
            if any(word in (model.__doc__ or "") for word in ("Append-only", "never changed", "Never deleted"))
        }

        assert said <= set(HISTORY)
        assert len(said) == 7


class TestRefused:
    @pytest.mark.parametrize("table", TABLES)
    def test_to_change_anything_but_what_is_named(self, world: World, table: str) -> None:
        assert run(f"SELECT FROM {table}") > 0
        free = HISTORY[table].columns
        for field in MODELS[table]._meta.concrete_fields:
            if field.column not in free:
                with pytest.raises(IntegrityError, match=f"{table} is history: no UPDATE"):
                    run(f'UPDATE {table} SET "{field.column}" = ' + _other(str(field.column), str(field.db_type(connection))))  # noqa: S608 - names of our tables

    @pytest.mark.parametrize("table", TABLES)
    @pytest.mark.parametrize("what", ["DELETE FROM", "TRUNCATE"])
    def test_to_remove_any(self, world: World, what: str, table: str) -> None:
        before = run(f"SELECT FROM {table}")
        with pytest.raises(IntegrityError, match=f"{table} is history: no {what.split(maxsplit=1)[0]}"):
            run(f"{what} {table}{' CASCADE' if what == 'TRUNCATE' else ''}")
        assert run(f"SELECT FROM {table}") == before

    def test_also_by_way_of_another_table(self, world: World) -> None:
        with pytest.raises(IntegrityError, match="is history: no TRUNCATE"):
            run("TRUNCATE clearing_clearing CASCADE")

    def test_and_a_user_who_has_done_something_is_not_deleted(self, world: World) -> None:
        with pytest.raises(IntegrityError, match="django_admin_log is history"), transaction.atomic():
            User.objects.get(username="ann").delete()


def _other(column: str, kind: str) -> str:
    """Another value than the row has."""
    if kind.startswith(("varchar", "text")):
        return f"\"{column}\" || 'x'"
    if "timestamp" in kind:
        return f"coalesce(\"{column}\", now()) + interval '1 second'"
    return {"bytea": "'x'::bytea", "boolean": f'NOT "{column}"', "jsonb": "'[1]'::jsonb"}.get(kind, f'coalesce("{column}", 0) + 1')


class TestInterventions:
    def test_are_decided_once(self, world: World) -> None:
        pk = Intervention.objects.get(state=InterventionState.REQUESTED).pk
        assert interventions.refuse(pk, operator=BEN, reason="no")

        with pytest.raises(IntegrityError, match="clearing_intervention is history"):
            run("UPDATE clearing_intervention SET state = 'executed', decided_by = 'eve' WHERE id = %s", pk)

    def test_nobody_puts_other_words_into_one_that_waits(self, world: World) -> None:
        with pytest.raises(IntegrityError, match="clearing_intervention is history"):
            run("UPDATE clearing_intervention SET amount = 30000, outcome = '' WHERE state = 'requested'")

    def test_are_approved_refused_and_expire_as_ever(self, world: World) -> None:
        clearing = done_by_two(held(world), K.VOID)

        assert clearing.state == State.VOIDED
        assert Intervention.objects.get(clearing=clearing).state == InterventionState.EXECUTED


class TestOrders:
    def test_are_marked_as_late_and_never_as_in_time_again(self, world: World) -> None:
        order = Clearing.objects.earliest("id").order

        assert run("UPDATE orders_syncorder SET late = true WHERE id = %s", order.pk) == 1
        with pytest.raises(IntegrityError, match="orders_syncorder is history"):
            run("UPDATE orders_syncorder SET late = false WHERE id = %s", order.pk)


class TestGrants:
    def test_end_once(self, world: World) -> None:
        assert run("UPDATE base_grant SET ended_at = service_now()") == 1
        with pytest.raises(IntegrityError, match="base_grant is history"):
            run("UPDATE base_grant SET ended_at = NULL")


class TestTriggers:
    def test_are_there_again_after_a_migrate(self, world: World) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; DROP TRIGGER history_rows ON clearing_attempt; SET CONSTRAINTS ALL DEFERRED")

        call_command("migrate", verbosity=0)

        with pytest.raises(IntegrityError, match="clearing_attempt is history"):
            run("DELETE FROM clearing_attempt")

    def test_are_on_again_after_tests_had_them_off(self, world: World) -> None:
        with rewritable():
            assert run("UPDATE clearing_attempt SET detail = 'a test'")

        with pytest.raises(IntegrityError, match="clearing_attempt is history"):
            run("UPDATE clearing_attempt SET detail = 'another'")
