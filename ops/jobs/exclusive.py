"""One run of a kind at a time, by an advisory lock of the job's own session.

Not a slot without a wait (base/slot.py): a slot has a session beside the work and takes its lock
again when that breaks, so that a long-lived process keeps its place. Here the lock must go with the
session that writes, when the process dies or is frozen for long.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def exclusive(lock: int, *, idle_seconds_max: float) -> Iterator[bool]:
    """Whether this is the only run of its kind. Who stays idle for longer while it holds the lock
    loses its session, and with it the lock.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [lock])
        ours: bool = cursor.fetchone()[0]
        if ours:
            cursor.execute("SELECT set_config('idle_session_timeout', %s, false)", [str(int(idle_seconds_max * 1000))])
    try:
        yield ours
    finally:
        if ours and connection.connection is not None and connection.is_usable():  # a connection that broke took the lock with it
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s), set_config('idle_session_timeout', '0', false)", [lock])
