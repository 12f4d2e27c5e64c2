"""Calls of database functions: one call, one commit. A broken connection is dropped.

Celery keeps a connection for ever (`CELERY_DB_REUSE_MAX`), so the call that meets a broken one
closes it, and the next call reconnects.
"""

from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, TypeAlias

import structlog
from django.db import DatabaseError, InterfaceError, InternalError, OperationalError, connection
from psycopg2.errors import DeadlockDetected, LockNotAvailable, QueryCanceled

log = structlog.get_logger(__name__)
Row: TypeAlias = Any  # a named tuple: its columns by name, or in order
DATABASE_UNAVAILABLE = (OperationalError, InterfaceError)  # the statement itself is right
# psycopg2 raises InternalError for these, as for a wrong statement: a primary that was demoted (it
# only reads now), and two of the session's time limits.
_UNAVAILABLE_CODES: Final = frozenset({"25006", "25P03", "25P04"})


def is_unavailable(error: BaseException) -> bool:
    """Whether the database is unavailable to this session: the statement itself is right, and may
    be repeated later.
    """
    if isinstance(error, InternalError):
        return getattr(error.__cause__, "pgcode", "") in _UNAVAILABLE_CODES
    return isinstance(error, DATABASE_UNAVAILABLE)


def in_one_line(error: BaseException) -> str:
    """What an error says, psycopg's several lines as one."""
    return " ".join(str(error).split()) or type(error).__name__


def call(sql: str, params: Sequence[Any] | Mapping[str, Any]) -> list[Row]:
    """Runs one statement, in a transaction of its own unless one is open. Returns its rows as named
    tuples. A connection that broke is dropped. Raises one of DATABASE_UNAVAILABLE where the
    statement may be repeated later.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            return list(map(_row_type(tuple(column.name for column in cursor.description))._make, cursor.fetchall()))
    except DATABASE_UNAVAILABLE:
        drop_broken_connection()
        raise
    except InternalError as error:
        drop_broken_connection()
        if is_unavailable(error):
            raise OperationalError(*error.args) from error
        raise


@lru_cache(maxsize=512)
def _row_type(columns: tuple[str, ...]) -> Any:
    return namedtuple("Row", columns, rename=True)  # noqa: PYI024 - its fields are known at run time


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


@contextmanager
def suppress_and_log(message: str, *, fix: str, fix_unexpected: str = "") -> Iterator[None]:
    """For the body of a loop that must go on whatever happens: logs the error instead of raising
    it, and drops a broken connection. An unavailable database is a warning; anything else is logged
    with its traceback and, where it is given, a fix of its own.
    """
    try:
        yield
    except DATABASE_UNAVAILABLE as error:
        drop_broken_connection()
        log.warning(message, error=str(error).strip(), fix=fix)
    except Exception:
        drop_broken_connection()
        log.exception(message, fix=fix_unexpected or fix)


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
