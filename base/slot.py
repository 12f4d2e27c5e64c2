"""One process at a time in a named slot, across machines: a second one waits, ready to go on, and takes over when the first one ends.

An advisory lock of PostgreSQL, on a connection of its own: it goes with a process that dies. It only arranges who begins; that two never do harm is
the business of what the slot protects. So while PostgreSQL is away nobody is refused.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2
import structlog
from django.conf import settings
from django.db import connection

from base.notify import ready

log = structlog.get_logger(__name__)
LOOK_SECONDS = 0.02
_TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%s, 7079))"


@contextmanager
def held(name: str, stopping: threading.Event) -> Iterator[None]:
    """Waits for the slot, saying first that this process is ready; gives it back at the end. Without a name there is nothing to wait for."""
    session = _connect() if name else None
    try:
        waits = session is not None and not _take(session, name)
        ready()
        if waits:
            log.info("another process has our place: waiting for its end", slot=name)
        while waits and session is not None and not stopping.wait(LOOK_SECONDS):
            waits = not _take(session, name)
        yield
    finally:
        if session is not None:
            with suppress(psycopg2.Error):
                session.close()


def _connect() -> "psycopg2.extensions.connection | None":
    parameters = dict(connection.get_connection_params())
    for ours in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(ours, None)
    try:
        session: psycopg2.extensions.connection = psycopg2.connect(
            **{**parameters, "application_name": f"{settings.PROCESS_ROLE or 'acceptance'} slot"}
        )
    except psycopg2.Error as error:
        log.warning("nobody says whether our place is free", error=str(error).strip(), fix="nothing: Kafka lets one alone have it")
        return None
    session.autocommit = True
    return session


def _take(session: "psycopg2.extensions.connection", name: str) -> bool:
    try:
        with session.cursor() as cursor:
            cursor.execute(_TAKE, [name])
            return cursor.fetchone() == (True,)
    except psycopg2.Error:
        return True
