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
from functools import partial
from time import monotonic

import structlog
from django.conf import settings
from django.db import connection

from base.db import call, suppress_and_log
from base.membership import Membership
from base.process_name import new_name

log = structlog.get_logger(__name__)
BEAT_SECONDS = 1.0
END_SECONDS_MAX = 2.0  # that `end` waits for the heartbeat's thread
_BEAT = "UPDATE base_incarnation SET beat_at = service_now() WHERE name = %s AND ended_at IS NULL RETURNING name"
_REGISTER = "INSERT INTO base_incarnation (name, role, host, pid, version, address) VALUES (%s, %s, %s, %s, %s, %s) RETURNING name"
_END = "UPDATE base_incarnation SET ended_at = service_now(), \"end\" = 'stopped' WHERE name = %s AND ended_at IS NULL RETURNING name"
_ENDED = "SELECT name FROM base_incarnation WHERE name = %s AND ended_at IS NOT NULL"
_FORGET = "DELETE FROM base_incarnation WHERE ended_at < service_now() - interval '7 days' RETURNING name"


# A heartbeat that PostgreSQL's outage costs does no harm: the sweep, too, counts only the silence
# that it has seen. No error ends the thread.
heartbeat_errors_logged = partial(
    suppress_and_log,
    "no heartbeat",
    fix="nothing: it goes on when PostgreSQL is back",
    fix_unexpected="is the database migrated? DATABASE_STATEMENT_MS_MAX=0 manage.py migrate",
)


class Registration:
    """The registration of one process, under a new name each time that it was declared dead.
    `address` says where operators reach it: host:port, or nothing.
    """

    def __init__(self, role: str, address: str = "") -> None:
        self.role = role
        self.address = address
        self.membership = Membership(settings.LEADERSHIP)
        self._name = ""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def start(self) -> None:
        """Starts the heartbeat, which registers the process as soon as PostgreSQL is there; returns
        at once. Never before a fork.
        """
        with self._lock:
            self._start_heartbeat()

    @property
    def name(self) -> str:
        """The current incarnation's name, which claims are made under. Raises OperationalError
        while PostgreSQL is away.
        """
        with self._lock:
            if not self._name:
                self._name = self._register()
            self._start_heartbeat()
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
                log.warning(
                    "declared dead while it was silent",
                    incarnation=old,
                    now=self._name,
                    fix="nothing: its claims were taken back",
                )

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
                with heartbeat_errors_logged():
                    call(_END, [name])
        if self._heartbeat is not None and self._heartbeat.ident is not None:
            self._heartbeat.join(END_SECONDS_MAX)

    def _start_heartbeat(self) -> None:
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
            self._heartbeat.start()

    def _register(self) -> str:
        name = new_name()
        call(_REGISTER, [name, self.role[:20], socket.gethostname()[:64], os.getpid(), settings.VERSION, self.address[:80]])
        return name

    def _beat(self) -> None:
        membership = threading.Thread(target=self._keep_membership, name="membership", daemon=True)
        with heartbeat_errors_logged():
            membership.start()  # without it the process still beats
        with heartbeat_errors_logged():
            call(_FORGET, [])
        due = monotonic()
        while not self._stopping.is_set():
            with heartbeat_errors_logged():
                self.beat()
            due = max(due + BEAT_SECONDS, monotonic())
            self._stopping.wait(due - monotonic())
        connection.close()
        if membership.ident is not None:
            membership.join(END_SECONDS_MAX)

    def _keep_membership(self) -> None:
        """A thread of its own: a ZooKeeper that is slow or away costs no beat."""
        while not self._stopping.is_set():
            self.membership.show(self._name)
            self._stopping.wait(BEAT_SECONDS)
        self.membership.leave()


_registrations: dict[int, Registration] = {}  # by process id: a fork's child registers itself


def registration(role: str = "worker", address: str = "") -> Registration:
    """The registration of this process, which ends with the process. The first call says what the
    process is, unless PROCESS_ROLE does, and where it listens.
    """
    ours = _registrations.get(os.getpid())
    if ours is None:
        port = settings.METRICS_PORT
        address = address or (f"{socket.gethostname()}:{port}" if port else "")
        ours = _registrations[os.getpid()] = Registration(settings.PROCESS_ROLE or role, address)
        atexit.register(_end, os.getpid())
    return ours


def _end(pid: int) -> None:
    if pid == os.getpid():
        _registrations[pid].end()
