"""A process's incarnation: registered at its start, beating once a second, ended when it stops.

A process that was declared dead while it was frozen finds its row ended when it wakes, and goes on
under a new name: what it claimed under the old one is another's by now. Where LEADERSHIP_URL names
a ZooKeeper, an ephemeral node of the same name says sooner that it died (base/membership.py).
Whichever of the two servers is away: the process goes on, and registers when it is back.
"""

import atexit
import os
import socket
import threading
from collections.abc import Callable
from time import monotonic
from uuid import uuid4

import structlog
from django.conf import settings
from django.db import connection

from base.db import DATABASE_UNAVAILABLE, call, drop_broken_connection
from base.membership import Membership

log = structlog.get_logger(__name__)
BEAT_SECONDS = 1.0
END_SECONDS_MAX = 2.0  # for the heart to come to its end
_BEAT = "UPDATE base_incarnation SET beat_at = service_now() WHERE name = %s AND ended_at IS NULL RETURNING name"
_REGISTER = "INSERT INTO base_incarnation (name, role, host, pid, version, address) VALUES (%s, %s, %s, %s, %s, %s) RETURNING name"
_END = "UPDATE base_incarnation SET ended_at = service_now(), \"end\" = 'stopped' WHERE name = %s AND ended_at IS NULL RETURNING name"
_ENDED = "SELECT name FROM base_incarnation WHERE name = %s AND ended_at IS NOT NULL"
_FORGET = "DELETE FROM base_incarnation WHERE ended_at < service_now() - interval '7 days' RETURNING name"


class Life:
    """The life of one process under one name after another. `address` is where it can be reached,
    for people: host:port, or nothing.
    """

    def __init__(self, role: str, address: str = "") -> None:
        self.role = role
        self.address = address
        self.membership = Membership(settings.LEADERSHIP)
        self._name = ""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._heart: threading.Thread | None = None

    def start(self) -> None:
        """Starts the heart, which registers the process as soon as PostgreSQL is there; returns at
        once. Never before a fork.
        """
        with self._lock:
            self._start_heart()

    @property
    def name(self) -> str:
        """The current incarnation's name, which claims are made under. Raises OperationalError
        while PostgreSQL is away.
        """
        with self._lock:
            if not self._name:
                self._name = self._register()
            self._start_heart()
            return self._name

    def beat(self) -> None:
        """Beats once; a process that isn't registered, or was declared dead, takes a new name."""
        with self._lock:
            if self._stopping.is_set():
                return
            if not self._name:
                self._name = self._register()
            elif not call(_BEAT, [self._name]):
                old, self._name = self._name, self._register()
                log.warning("declared dead while it was silent", incarnation=old, now=self._name, fix="nothing: its claims were taken back")

    def outlived(self, name: str) -> bool:
        """Whether the incarnation of this name has ended and the process goes on under another,
        which it takes now if it hasn't yet. Raises OperationalError while PostgreSQL is away.
        """
        if not call(_ENDED, [name]):
            return False
        self.beat()
        with self._lock:
            return self._name not in {name, ""}

    def end(self) -> None:
        """Ends the incarnation, so that whatever it may still hold is taken back at once."""
        self._stopping.set()
        with self._lock:
            if self._name:
                name, self._name = self._name, ""
                _survive(lambda: call(_END, [name]))
        if self._heart is not None and self._heart.ident is not None:
            self._heart.join(END_SECONDS_MAX)

    def _start_heart(self) -> None:
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heart.start()

    def _register(self) -> str:
        name = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid4().hex[:12]}"
        call(_REGISTER, [name, self.role[:20], socket.gethostname()[:64], os.getpid(), settings.VERSION, self.address[:80]])
        return name

    def _beat(self) -> None:
        shown = threading.Thread(target=self._stay_shown, name="membership", daemon=True)
        _survive(shown.start)  # without it the process still beats
        _survive(lambda: call(_FORGET, []))
        due = monotonic()
        while not self._stopping.is_set():
            _survive(self.beat)
            due = max(due + BEAT_SECONDS, monotonic())
            self._stopping.wait(due - monotonic())
        connection.close()
        if shown.ident is not None:
            shown.join(END_SECONDS_MAX)

    def _stay_shown(self) -> None:
        """A thread of its own: a ZooKeeper that is slow or away costs no beat."""
        while not self._stopping.is_set():
            self.membership.show(self._name)
            self._stopping.wait(BEAT_SECONDS)
        self.membership.leave()


def _survive(act: Callable[[], object]) -> None:
    """A beat that is missed while PostgreSQL is away is nobody's fault: the sweep counts its own
    silence, too. No mistake stops the heart.
    """
    try:
        act()
    except DATABASE_UNAVAILABLE as error:
        log.warning("no heartbeat", error=str(error).strip(), fix="nothing: it goes on when PostgreSQL is back")
    except Exception:
        log.exception("no heartbeat", fix="is the database migrated? DATABASE_STATEMENT_MS_MAX=0 manage.py migrate")
        drop_broken_connection()


_lives: dict[int, Life] = {}  # by process: a fork's child has a life of its own


def life(role: str = "worker", address: str = "") -> Life:
    """The life of this process. The first call says what it is (PROCESS_ROLE says it better) and
    where it listens; its end is seen to.
    """
    found = _lives.get(os.getpid())
    if found is None:
        port = settings.METRICS_PORT
        found = _lives[os.getpid()] = Life(settings.PROCESS_ROLE or role, address or (f"{socket.gethostname()}:{port}" if port else ""))
        atexit.register(_end, os.getpid())
    return found


def _end(pid: int) -> None:
    if pid == os.getpid():
        _lives[pid].end()
