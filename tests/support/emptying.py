"""Empties the database after a test that commits, in a twentieth of the time that Django's `flush`
takes: it truncates every table, used or not, and makes content types and permissions anew.
"""

from typing import Any

from django.core.management import call_command
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TransactionTestCase

from tests.support.states import history_triggers

KEPT = {"django_content_type", "auth_permission", "auth_group", "auth_group_permissions"}  # `flush` makes the same rows again
FEW_ROWS = 200  # above that TRUNCATE, which leaves no dead rows and old statistics behind
STARTED_SQL = """
    INSERT INTO orders_firststart (since_ms, code, needs_two, requested_by, confirmed_by, started_at)
    SELECT 0, 'tests', false, 'tests', '', service_now() WHERE NOT EXISTS (SELECT FROM orders_firststart)
"""  # so that orders are accepted: the tests of the first start take it away
MIGRATED_ROWS_SQL = "INSERT INTO clearing_standing (name) VALUES ('counter'), ('fund'), ('trading') ON CONFLICT (name) DO NOTHING"
OWN_GROUPS_SQL = (
    "DELETE FROM auth_group_permissions WHERE group_id IN (SELECT id FROM auth_group WHERE name <> ALL(%(roles)s));"
    " DELETE FROM auth_group WHERE name <> ALL(%(roles)s)"
)
SUPERUSER_SQL = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"


def empty_used_tables(case: TransactionTestCase) -> None:
    """Stands for `TransactionTestCase._fixture_teardown`; a migration's rows are written again, and
    the first start.
    """
    from base.desk.roles import NAMES

    for alias in case._databases_names(include_mirrors=False):  # type: ignore[attr-defined]
        empty(connections[alias])
        connections[alias].cursor().execute(f"{MIGRATED_ROWS_SQL}; {STARTED_SQL}")
        connections[alias].cursor().execute(OWN_GROUPS_SQL, {"roles": list(NAMES)})


def empty(connection: BaseDatabaseWrapper) -> None:
    """Deletes all rows. Without foreign keys' checks and history's triggers, so in any order; where
    the account may not leave them out, by `flush`.
    """
    with connection.cursor() as cursor:
        cursor.execute(SUPERUSER_SQL)
        if cursor.fetchone() != (True,):
            cursor.execute(history_triggers("DISABLE"))
            call_command("flush", verbosity=0, interactive=False, database=connection.alias, reset_sequences=False, allow_cascade=False)
            cursor.execute(history_triggers("ENABLE"))
            return
        tables = sorted(set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - KEPT)
        rows = _first_rows(cursor, tables, 0)
        many = _first_rows(cursor, rows, FEW_ROWS)
        few = [table for table in rows if table not in many]
        if many:
            cursor.execute(f"SET session_replication_role = replica; TRUNCATE {', '.join(map(_quoted, many))} CASCADE")
        if few:
            deletes = "; ".join(f"DELETE FROM {_quoted(table)}" for table in few)  # noqa: S608 - names of our tables
            cursor.execute(f"SET session_replication_role = replica; {deletes}")
        cursor.execute("SET session_replication_role = origin")


def _first_rows(cursor: Any, tables: list[str], after: int) -> list[str]:
    """Those of the tables that have more than so many rows."""
    if not tables:
        return []
    cursor.execute("SELECT " + ", ".join(f"EXISTS (SELECT FROM {_quoted(table)} OFFSET {after})" for table in tables))  # noqa: S608 - as above
    return [table for table, has_rows in zip(tables, cursor.fetchone(), strict=True) if has_rows]


def _quoted(name: str) -> str:
    return f'"{name}"'
