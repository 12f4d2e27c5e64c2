"""A process's incarnation: registered when it first claims, beating once a second, ended when it stops.

A process that was declared dead while it was frozen finds its row ended when it wakes, and goes on under a new name: what it claimed under the
old one is another's by now.
"""

import os
import socket
import threading
from collections.abc import Callable
from uuid import uuid4

import structlog
from django.conf import settings
from django.db import connection

from base.db import DATABASE_AWAY, call

log = structlog.get_logger(__name__)
BEAT_SECONDS = 1.0
_BEAT = "UPDATE base_incarnation SET beat_at = service_now() WHERE name = %s AND ended_at IS NULL RETURNING name"
_REGISTER = "INSERT INTO base_incarnation (name, role, host, pid, version) VALUES (%s, %s, %s, %s, %s) RETURNING name"
_END = "UPDATE base_incarnation SET ended_at = service_now(), \"end\" = 'stopped' WHERE name = %s AND ended_at IS NULL RETURNING name"
_FORGET = "DELETE FROM base_incarnation WHERE ended_at < service_now() - interval '7 days' RETURNING name"


class Life:
    """The life of one process under one name after another."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._name = ""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._heart: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The current incarnation's name; the first call registers it and starts the beat. Raises OperationalError while PostgreSQL is away."""
        with self._lock:
            if not self._name:
                self._name = self._register()
            if self._heart is None:
                self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
                self._heart.start()
            return self._name

    def beat(self) -> None:
        """Beats once; a process that was declared dead takes a new name."""
        with self._lock:
            if self._name and not call(_BEAT, [self._name]):
                old, self._name = self._name, self._register()
                log.warning("declared dead while it was silent", incarnation=old, now=self._name, fix="nothing: its claims were taken back")

    def end(self) -> None:
        """Ends the incarnation, so that whatever it may still hold is taken back at once."""
        self._stopping.set()
        with self._lock:
            if self._name:
                name, self._name = self._name, ""
                _unless_away(lambda: call(_END, [name]))

    def _register(self) -> str:
        name = f"{socket.gethostname()[:40]}:{os.getpid()}:{uuid4().hex[:12]}"
        call(_REGISTER, [name, self._role, socket.gethostname()[:64], os.getpid(), settings.VERSION])
        return name

    def _beat(self) -> None:
        _unless_away(lambda: call(_FORGET, []))
        while not self._stopping.wait(BEAT_SECONDS):
            _unless_away(self.beat)
        connection.close()


def _unless_away(act: Callable[[], object]) -> None:
    """A beat that is missed while PostgreSQL is away is nobody's fault: the sweep counts its own silence, too."""
    try:
        act()
    except DATABASE_AWAY as error:
        log.warning("no heartbeat", error=str(error).strip(), fix="nothing: it goes on when PostgreSQL is back")
