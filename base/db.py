"""Calls of database functions: one call, one commit, and connections that heal themselves.

Celery keeps a connection for ever (`CELERY_DB_REUSE_MAX`), so a broken one must be dropped by who meets it: whoever comes next reconnects.
"""

from collections.abc import Sequence
from typing import Any

from django.db import InterfaceError, OperationalError, connection
from psycopg2.errors import DeadlockDetected, LockNotAvailable, QueryCanceled

Row = tuple[Any, ...]
DATABASE_AWAY = (OperationalError, InterfaceError)  # nothing is wrong with what was asked


def call(sql: str, params: Sequence[Any]) -> list[Row]:
    """Runs one statement, in a transaction of its own unless one is open. A connection that broke is dropped; the error is raised."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall())
    except DATABASE_AWAY:
        drop_broken_connection()
        raise


def gave_up_waiting(error: BaseException) -> bool:
    """Whether the statement was ended because others kept its locks for longer than a session waits. It did nothing."""
    return isinstance(error.__cause__, (LockNotAvailable, DeadlockDetected, QueryCanceled))


def drop_broken_connection() -> None:
    """Closes this thread's connection if it is no longer usable, so that the next call reconnects. Not inside a transaction."""
    if not connection.in_atomic_block and not connection.is_usable():
        connection.close()
