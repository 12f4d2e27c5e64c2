"""What nobody rewrites: tables whose rows the database itself refuses to change or to delete, and
the few columns that may change after all. One list for all apps.

The triggers fire on UPDATE, DELETE and TRUNCATE, so an INSERT costs nothing. Whoever owns the
tables can switch them off, and nobody else. A dump and its restore insert only.
"""

from dataclasses import dataclass
from typing import Final

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

LOCK_MS_MAX: Final = 5_000  # a longer wait would make the table's writers wait behind ours


@dataclass(frozen=True, slots=True)
class Kept:
    """How a row may still change: these columns, while `column` has this value (None: while it is
    null); not at all where there is none.
    """

    columns: tuple[str, ...] = ()
    column: str = ""
    value: str | None = None


HISTORY: Final[dict[str, Kept]] = {
    "clearing_attempt": Kept(),
    "clearing_statuschange": Kept(),
    "clearing_standingchange": Kept(),
    "clearing_intervention": Kept(("state", "decided_by", "decided_at", "outcome", "bookings"), "state", "requested"),
    "orders_syncorder": Kept(("late",), "late", "false"),
    "django_admin_log": Kept(),
    "base_deskevent": Kept(),
    "base_grant": Kept(("ended_at",), "ended_at"),
    "base_seal": Kept(),
}


def generated_functions() -> list[str]:
    """The triggers' functions. What may change stands in them, not in the triggers: replacing a
    function takes no lock.
    """
    return [_function(table, kept) for table, kept in HISTORY.items()]


def _function(table: str, kept: Kept) -> str:
    columns = ", ".join(f"'{column}'" for column in kept.columns)
    value = "NULL" if kept.value is None else f"'{kept.value}'"
    may_change = f"OLD.{kept.column}::text IS NOT DISTINCT FROM {value} AND to_jsonb(OLD) - ARRAY[{columns}] = to_jsonb(NEW) - ARRAY[{columns}]"
    return f"""
        CREATE OR REPLACE FUNCTION ops_keep_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'UPDATE' THEN
                IF {may_change if kept.columns else "false"} THEN
                    RETURN NEW;
                END IF;
            END IF;
            RAISE EXCEPTION '% is history: no % there', TG_TABLE_NAME, TG_OP
                USING ERRCODE = 'check_violation', TABLE = TG_TABLE_NAME, CONSTRAINT = TG_NAME;
        END
        $$;"""


def guard_history(using: str) -> None:
    """Makes the triggers that are missing, once their functions are installed; each table's in a
    transaction of its own: making one waits for the table's writers, who may wait for another of
    the tables.
    """
    connection = connections[using]
    for table in HISTORY:
        if _is_unguarded(connection, table):
            with transaction.atomic(using=using), connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{LOCK_MS_MAX}ms"])
                cursor.execute(
                    f"CREATE OR REPLACE TRIGGER history_row BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION ops_keep_{table}();"
                    f"CREATE OR REPLACE TRIGGER history_rows BEFORE DELETE OR TRUNCATE ON {table} EXECUTE FUNCTION ops_keep_{table}()"
                )


def _is_unguarded(connection: BaseDatabaseWrapper, table: str) -> bool:
    """Whether table and function are there, and a trigger isn't."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT to_regclass(%s) IS NOT NULL AND to_regproc(%s) IS NOT NULL"
            " AND (SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass(%s) AND tgname IN ('history_row', 'history_rows')) < 2",
            [table, f"ops_keep_{table}", table],
        )
        return bool(cursor.fetchone()[0])
