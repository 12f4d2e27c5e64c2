"""Registers this process at ZooKeeper, by an ephemeral node for its incarnation under `…/members`,
and lists the members.

This is a hint beside the heartbeat in PostgreSQL: it shows sooner that a process died, and nothing
waits for it. A thread of its own and the sweep use it, each with a short limit. Without a
ZooKeeper, or while it is unavailable, no member counts as missing.
"""

import threading
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError

from base.zookeeper import ZooKeeperAddress, make_client

log = structlog.get_logger(__name__)
MEMBERS: Final = "members"
ANSWER_SECONDS_MAX: Final = 1.0
GIVEN_UP_SECONDS: Final = 20.0  # kazoo connects again by itself, unless a refused authentication or an internal error has ended its thread
Session = int


@dataclass(frozen=True, slots=True)
class View:
    """The members, as seen in one session of this process."""

    session: Session
    names: frozenset[str]


class Membership:
    """The node of this process. Safe in threads: one registers it, a sweep lists the members."""

    def __init__(self, address: ZooKeeperAddress | None) -> None:
        self._address = address
        self._client: KazooClient | None = None
        self._lock = threading.Lock()
        self._shown: tuple[Session, str] | None = None
        self._connected_at = 0.0
        self._complained = False

    def show(self, name: str) -> None:
        """Creates the node of this name if it is missing, and deletes the former one. Never
        raises; waits for a few answers at most.
        """
        if self._address is None or not name:
            return
        try:
            self._show(self._connected(), name)
            self._complained = False
        except Exception as error:  # ZooKeeper is only a hint: the process goes on
            if not self._complained:
                self._complained = True
                fix = "nothing: it is shown when ZooKeeper is back"
                log.warning("not shown among the members", error=f"{type(error).__name__}: {error}".strip(), fix=fix)

    def look(self) -> View | None:
        """The members now; None: ZooKeeper doesn't answer, or none is configured."""
        client = self._client
        if client is None or self._address is None or not client.connected or client.client_id is None:
            return None
        session = client.client_id[0]
        try:
            names = client.get_children_async(self._address.path(MEMBERS)).get(timeout=ANSWER_SECONDS_MAX)
        except Exception as error:  # no answer is no evidence
            log.info("ZooKeeper doesn't say who is there", error=f"{type(error).__name__}: {error}".strip())
            return None
        return View(session, frozenset(names)) if client.connected and client.client_id[0] == session else None

    def leave(self) -> None:
        """Ends the session, and the node with it."""
        with self._lock:
            client, self._client, self._shown = self._client, None, None
        if client is not None:
            _end(client)

    def _connected(self) -> KazooClient:
        with self._lock:
            if self._client is not None and not self._client.connected and monotonic() - self._connected_at > GIVEN_UP_SECONDS:
                given_up, self._client = self._client, None
                threading.Thread(target=_end, args=(given_up,), name="membership-end", daemon=True).start()
            if self._client is None:
                assert self._address is not None
                self._connected_at = monotonic()
                self._client = make_client(self._address)
                self._client.start_async().wait(ANSWER_SECONDS_MAX)
            if not self._client.connected:
                raise ConnectionError("ZooKeeper is away")
            self._connected_at = monotonic()
            return self._client

    def _show(self, client: KazooClient, name: str) -> None:
        assert self._address is not None
        session: Session = client.client_id[0]
        if self._shown == (session, name):
            return
        if self._shown is not None and self._shown[1] != name:
            with suppress(NoNodeError):
                client.delete_async(self._address.path(MEMBERS, self._shown[1])).get(timeout=ANSWER_SECONDS_MAX)
        self._make(client, session, self._address.path(MEMBERS, name))
        self._shown = (session, name)

    @staticmethod
    def _make(client: KazooClient, session: Session, path: str) -> None:
        try:
            client.create_async(path, ephemeral=True, makepath=True).get(timeout=ANSWER_SECONDS_MAX)
        except NodeExistsError:
            stat = client.exists_async(path).get(timeout=ANSWER_SECONDS_MAX)
            if stat is not None and stat.ephemeralOwner == session:
                return  # our own create succeeded, its answer was lost
            with suppress(NoNodeError):  # it belongs to our former session, which ends soon
                client.delete_async(path).get(timeout=ANSWER_SECONDS_MAX)
            client.create_async(path, ephemeral=True).get(timeout=ANSWER_SECONDS_MAX)


def _end(client: KazooClient) -> None:
    with suppress(Exception):  # it ends with the process
        client.stop()
        client.close()
