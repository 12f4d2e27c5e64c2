"""Calls of database functions: one call, one commit, and connections that heal themselves.

Celery keeps a connection for ever (`CELERY_DB_REUSE_MAX`), so a broken one must be dropped by who
meets it: whoever comes next reconnects.
"""

from collections.abc import Sequence
from typing import Any, Final

from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connection
from psycopg2.errors import DeadlockDetected, LockNotAvailable, QueryCanceled

Row = tuple[Any, ...]
DATABASE_AWAY = (OperationalError, InterfaceError)  # nothing is wrong with what was asked
# psycopg2 calls these internal errors, like mistakes of ours: a primary that was demoted (it only
# reads now), and two of the session's time limits.
_AWAY_TOO: Final = frozenset({"25006", "25P03", "25P04"})


def call(sql: str, params: Sequence[Any]) -> list[Row]:
    """Runs one statement, in a transaction of its own unless one is open. A connection that broke
    is dropped; the error is raised, as one of DATABASE_AWAY if nothing is wrong with the statement.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            return list(cursor.fetchall())
    except DATABASE_AWAY:
        drop_broken_connection()
        raise
    except InternalError as error:
        drop_broken_connection()
        if getattr(error.__cause__, "pgcode", "") in _AWAY_TOO:
            raise OperationalError(*error.args) from error
        raise


def gave_up_waiting(error: BaseException) -> bool:
    """Whether the statement was ended because others kept its locks for longer than a session
    waits. It did nothing.
    """
    return isinstance(error.__cause__, (LockNotAvailable, DeadlockDetected, QueryCanceled))


def drop_broken_connection() -> None:
    """Closes this thread's connection if it is no longer usable, so that the next call reconnects.
    Not inside a transaction.
    """
    if not connection.in_atomic_block and not _is_usable():
        connection.close()


def _is_usable() -> bool:
    """Whether this thread's connection, if it has one, answers and leads to a server that writes: a
    primary that was demoted answers, too.
    """
    if connection.connection is None:
        return True
    try:
        with connection.cursor() as cursor:
            cursor.execute("SHOW transaction_read_only")
            return bool(cursor.fetchone() == ("off",))
    except (DatabaseError, InterfaceError):
        return False
