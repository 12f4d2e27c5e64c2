"""One process at a time in a named slot, across machines: a second one waits, ready to go on, and
takes over when the first one ends.

An advisory lock of PostgreSQL, on a connection of its own: PostgreSQL releases it when the process
dies. It only decides who starts. It is no fence: what the slot protects must be safe when two
processes run. While PostgreSQL is unavailable, a process without the lock waits, since it could do
nothing anyway. Afterwards the former holder takes the lock again before the waiting ones try.
"""

import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg2
import structlog
from django.conf import settings
from django.db import connection

from base.notify import ready

log = structlog.get_logger(__name__)
RETRY_TAKE_SECONDS = 0.02  # between two tries to take the lock
RECONNECT_SECONDS = 0.2  # between two tries to connect while PostgreSQL is unavailable
CHECK_HELD_SECONDS = 0.1  # between two checks that the holder's session isn't broken, which cost PostgreSQL nothing
GRACE_SECONDS = 2.0  # a waiting process with a new session leaves the first tries to the holder, whose session broke as well
END_SECONDS_MAX = 1.0  # for the keeper's thread to end
_TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%s, 7079))"


@contextmanager
def held(name: str, stopping: threading.Event) -> Iterator[None]:
    """Reports that this process is ready, waits for the slot or until `stopping`, and releases the
    slot at the end. Without a name it doesn't wait.
    """
    if not name:
        ready()
        yield
        return
    slot = _Slot(name)
    over = threading.Event()
    taken = slot.take()
    ready()
    if not taken:
        log.info("another process has our place, or PostgreSQL is away: waiting", slot=name)
        slot.wait(stopping)
    keeper = threading.Thread(target=slot.keep, args=(over,), name="slot", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join(END_SECONDS_MAX)


class _Slot:
    """The lock and its session. One thread uses it at a time: first the waiting one, then the
    keeper.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._session: psycopg2.extensions.connection | None = None
        self.is_ours = False

    def connect(self) -> bool:
        """Connects, unless there is a session. False: PostgreSQL is unavailable."""
        if self._session is None:
            with suppress(psycopg2.Error):
                self._session = _connect()
        return self._session is not None

    def take(self) -> bool:
        """Tries once to take the lock. False: another process has it, or PostgreSQL is
        unavailable.
        """
        if self.connect():
            self.is_ours = self._ask(_TAKE, [self._name])
        return self.is_ours

    def wait(self, stopping: threading.Event) -> None:
        """Returns when the lock is ours, or `stopping` is set."""
        while not stopping.wait(RETRY_TAKE_SECONDS if self._session is not None else RECONNECT_SECONDS):
            if self._session is None:
                if self.connect():
                    stopping.wait(GRACE_SECONDS)
            elif self.take():
                return

    def keep(self, over: threading.Event) -> None:
        """Takes the lock again whenever its session breaks, until `over` is set; then releases
        it.
        """
        while not over.wait(CHECK_HELD_SECONDS if self._session is not None else RECONNECT_SECONDS):
            if (not self.is_ours or self._is_broken()) and self.take():
                log.info("our place was taken again after its session broke", slot=self._name)
        self._leave()

    def _leave(self) -> None:
        """Ends the session, which releases the lock."""
        session, self._session, self.is_ours = self._session, None, False
        if session is not None:
            with suppress(psycopg2.Error):
                session.close()

    def _is_broken(self) -> bool:
        """Whether PostgreSQL ended the session: it sends an idle session nothing else, except a
        setting that changed.
        """
        assert self._session is not None
        poll = select.poll()
        poll.register(self._session.fileno(), select.POLLIN)
        return bool(poll.poll(0)) and not self._ask("SELECT true", [])

    def _ask(self, sql: str, params: list[str]) -> bool:
        """Whether the statement returns true. False, with the session closed, if it broke."""
        assert self._session is not None
        try:
            with self._session.cursor() as cursor:
                cursor.execute(sql, params)
                return cursor.fetchone() == (True,)
        except psycopg2.Error:
            self._leave()
            return False


def _connect() -> "psycopg2.extensions.connection":
    parameters = dict(connection.get_connection_params())
    for ours in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(ours, None)
    role = settings.PROCESS_ROLE or "acceptance"
    session: psycopg2.extensions.connection = psycopg2.connect(**{**parameters, "application_name": f"{role} slot"})
    session.autocommit = True
    return session
