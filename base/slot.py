"""One process at a time in a named slot, across machines: a second one waits, ready to go on, and
takes over when the first one ends.

An advisory lock of PostgreSQL, on a connection of its own: it goes with a process that dies. It
only arranges who begins; that two never do harm is the business of what the slot protects. While
PostgreSQL is away everybody waits who isn't in yet: there is nothing to do without it. When it is
back, who was in takes the lock again, before those who waited try to.
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
RETRY_TAKE_SECONDS = 0.02  # between two tries of one that waits
RECONNECT_SECONDS = 0.2  # between two tries while PostgreSQL is away
CHECK_HELD_SECONDS = 0.1  # between two looks at whether the session of the holder still stands, which cost PostgreSQL nothing
GRACE_SECONDS = 2.0  # a waiting one that has a new session leaves the first tries to the holder, whose session broke as well
END_SECONDS_MAX = 1.0  # for the keeper to come to its end
_TAKE = "SELECT pg_try_advisory_lock(hashtextextended(%s, 7079))"


@contextmanager
def held(name: str, stopping: threading.Event) -> Iterator[None]:
    """Waits for the slot, or until `stopping`, saying first that this process is ready; gives it
    back at the end. Without a name there is nothing to wait for.
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
    """The lock and its session. Used by one thread at a time: by who waits, then by who keeps
    it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._session: psycopg2.extensions.connection | None = None
        self.is_ours = False

    def connect(self) -> bool:
        """Sees to it that there is a session. False: PostgreSQL is away."""
        if self._session is None:
            with suppress(psycopg2.Error):
                self._session = _connect()
        return self._session is not None

    def take(self) -> bool:
        """Tries once to take the lock. False: another has it, or PostgreSQL is away."""
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
        """Takes the lock again, however often its session breaks, until it is `over`; then gives it
        back.
        """
        while not over.wait(CHECK_HELD_SECONDS if self._session is not None else RECONNECT_SECONDS):
            if (not self.is_ours or self._is_broken()) and self.take():
                log.info("our place was taken again after its session broke", slot=self._name)
        self._leave()

    def _leave(self) -> None:
        """Ends the session, and with it the lock."""
        session, self._session, self.is_ours = self._session, None, False
        if session is not None:
            with suppress(psycopg2.Error):
                session.close()

    def _is_broken(self) -> bool:
        """Whether PostgreSQL ended the session: an idle one has nothing else to say, but for a
        setting that changed.
        """
        assert self._session is not None
        poll = select.poll()
        poll.register(self._session.fileno(), select.POLLIN)
        return bool(poll.poll(0)) and not self._ask("SELECT true", [])

    def _ask(self, sql: str, params: list[str]) -> bool:
        """Whether it is so. A session that broke is left: then nothing is."""
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
