"""Orders in states that the service never brings them to, for tests of what it does then; and
histories that nobody can write.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from ops.history import HISTORY


@contextmanager
def any_transition() -> Iterator[None]:
    """In the block the database accepts every change of a clearing's state, as it did before it
    knew `status.TRANSITIONS`.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE clearing_clearing DISABLE TRIGGER USER; SET CONSTRAINTS ALL DEFERRED")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE clearing_clearing ENABLE TRIGGER USER; SET CONSTRAINTS ALL DEFERRED")


@contextmanager
def rewritable() -> Iterator[None]:
    """In the block history may be changed and deleted: its tables' owner switches the triggers
    off.
    """
    with connection.cursor() as cursor:
        cursor.execute(history_triggers("DISABLE"))
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(history_triggers("ENABLE"))


def history_triggers(switch: str) -> str:
    """SQL that switches them, also where foreign keys are still to be checked."""
    alter = "; ".join(f"ALTER TABLE {table} {switch} TRIGGER USER" for table in HISTORY)
    return f"SET CONSTRAINTS ALL IMMEDIATE; {alter}; SET CONSTRAINTS ALL DEFERRED"
