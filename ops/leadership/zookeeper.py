"""Leadership by ZooKeeper: an ephemeral sequential node for each candidate; the first one's session
leads, everybody else watches the one before.

What kazoo's own recipe leaves open, and is done here:

* An old leader doesn't notice. It is confirmed by a write to its own node, which a quorum and its
  session must let pass; without that it stops acting after half a session, by its own clock. (A
  read proves nothing: a server that is cut off from the others answers it.)
* A `create` whose answer was lost leaves a node that nobody knows. Each candidate's nodes carry its
  number: it finds its own again, and removes those of earlier sessions.
* Who is elected and can't reach PostgreSQL gives its place to the next one.
* A client that kazoo has given up (an authentication that failed, a mistake in its thread) is
  replaced.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import structlog
from django.db import Error as DatabaseError
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError
from kazoo.protocol.states import KazooState

from base import fence
from base.alarms import alarm
from base.zookeeper import ZooKeeperAddress, make_client
from ops.leadership.candidate import CONFIRM_SHARE, RETRY_ROUND_SECONDS, Clock, LeaderCandidate, boottime

log = structlog.get_logger(__name__)
CANDIDATES: Final = "candidates"
HANDED_OVER: Final = "handed_over"  # the term whose leader stood down by itself
FIRST, STOOD_DOWN, ENDED = "nobody led", "the leader stood down", "the leader's session ended"
LOST_SESSIONS: Final = 3.0  # so many sessions without a connection: an alarm, and a new client
TERM_LOOK_SECONDS: Final = 1.0  # how often a leader looks whether the database still knows its term
SEQUENCE_DIGITS: Final = 10


class ZooKeeperCandidate(LeaderCandidate):
    """Stands at ZooKeeper."""

    def __init__(self, name: str, address: ZooKeeperAddress, *, clock: Clock = boottime, stall_seconds: float = float("inf")) -> None:
        super().__init__(name, seconds=address.session_seconds, clock=clock, stall_seconds=stall_seconds)
        self._address = address
        self._folder = address.path(CANDIDATES)
        self._prefix = f"{uuid4().hex}-"
        self._client: KazooClient | None = None
        self._node = ""
        self._asking: Any = None  # the confirmation that is in flight
        self._asked_at = float("-inf")
        self._term_looked_at = float("-inf")
        self._elected_at: float | None = None
        self._connected_at = clock()
        self._lost = False

    def members(self) -> list[str]:
        client = self._client
        names: list[str] = []
        if client is None or not client.connected:
            return names
        with contextlib.suppress(NoNodeError):
            for node in sorted(self._get(client.get_children_async(self._folder)), key=_sequence):
                with contextlib.suppress(NoNodeError):
                    names.append(self._get(client.get_async(f"{self._folder}/{node}"))[0].decode())
        return names

    def _campaign_round(self) -> float:
        client = self._connected()
        if client is None:
            return RETRY_ROUND_SECONDS
        if self._term is not None:
            return self._lead(client)
        if not self._node:
            self._enter(client)
        before = self._before(client)
        if before is None:
            return 0.0  # ours is gone
        if before:
            return self._watch(client, before)
        return self._be_elected(client)

    # --- The connection ---------------------------------------------------------------------------
    def _connected(self) -> KazooClient | None:
        now = self._clock()
        if self._client is None:
            self._client = make_client(self._address)
            self._client.add_listener(self._on_state)
            self._client.start_async()
            self._node, self._asking, self._connected_at = "", None, now
        if self._client.connected:
            self._connected_at, self._lost = now, False
            return self._client
        if now - self._connected_at > LOST_SESSIONS * self._seconds:
            self._connected_at = now
            self._replace_client()
        return None

    def _replace_client(self) -> None:
        if not self._lost:
            self._lost = True
            servers = ", ".join(self._address.servers)
            alarm("zookeeper_lost", "no ZooKeeper serves us: nobody new can lead", name=self.name, servers=servers)
        client, self._client = self._client, None
        if client is not None:
            threading.Thread(target=_end, args=(client,), name="leadership-end", daemon=True).start()

    def _on_state(self, state: str) -> None:
        """In kazoo's thread: only what can't wait for ours."""
        if state == KazooState.LOST:
            self._node = ""
            self._lead_no_more("its session is over")
        self._wake()

    def _get(self, answer: Any) -> Any:
        """An answer of ZooKeeper's, or its error; a server that is frozen doesn't hold us for
        long.
        """
        return answer.get(timeout=self._seconds / 4)

    # --- The place in the queue -------------------------------------------------------------------
    def _enter(self, client: KazooClient) -> None:
        """Finds our node of this session, or makes one."""
        self._make_nodes(client)
        mine = [node for node in self._get(client.get_children_async(self._folder)) if node.startswith(self._prefix)]
        for node in sorted(mine, key=_sequence):
            if not self._node and self._is_of_this_session(client, node):
                self._node = node
            else:
                self._delete(client, node)
        if not self._node:
            path = f"{self._folder}/{self._prefix}"
            made = self._get(client.create_async(path, self.name.encode(), ephemeral=True, sequence=True))
            self._node = made.rpartition("/")[2]

    def _make_nodes(self, client: KazooClient) -> None:
        names = self._folder.strip("/").split("/")
        folders = ["/" + "/".join(names[: depth + 1]) for depth in range(len(names))]
        for path in (*folders, self._address.path(HANDED_OVER)):
            with contextlib.suppress(NodeExistsError):
                if self._get(client.exists_async(path)) is None:
                    self._get(client.create_async(path))

    def _is_of_this_session(self, client: KazooClient, node: str) -> bool:
        stat = self._get(client.exists_async(f"{self._folder}/{node}"))
        session = client.client_id
        return stat is not None and session is not None and stat.ephemeralOwner == session[0]

    def _delete(self, client: KazooClient, node: str) -> None:
        with contextlib.suppress(NoNodeError):
            self._get(client.delete_async(f"{self._folder}/{node}"))

    def _before(self, client: KazooClient) -> str | None:
        """The node right before ours; empty when ours is the first; None when ours is gone."""
        nodes = sorted(self._get(client.get_children_async(self._folder)), key=_sequence)
        if self._node not in nodes:
            self._node = ""
            return None
        at = nodes.index(self._node)
        return nodes[at - 1] if at else ""

    def _watch(self, client: KazooClient, before: str) -> float:
        """Of all that stand before us one alone, so that a leader's end wakes one candidate and not
        all.
        """
        self._elected_at = None
        if self._get(client.exists_async(f"{self._folder}/{before}", watch=self._wake)) is None:
            return 0.0
        self._see_leader()
        return self._seconds

    # --- Leading ----------------------------------------------------------------------------------
    def _be_elected(self, client: KazooClient) -> float:
        asked_at = self._clock()
        if self._elected_at is None:
            self._elected_at = asked_at
        try:
            confirmation = client.set_async(f"{self._folder}/{self._node}", self.name.encode())
            current = fence.current()
            self._get(confirmation)
            self._take_term(current, asked_at, self._why(client, current))
        except DatabaseError:
            if asked_at - self._elected_at > 2 * self._seconds:
                self._step_down()  # the next one may have a PostgreSQL
            raise
        self._asked_at = self._term_looked_at = asked_at
        return 0.0

    def _why(self, client: KazooClient, current: fence.Current) -> str:
        if not current.leader:
            return FIRST
        try:
            handed_over = self._get(client.get_async(self._address.path(HANDED_OVER)))[0]
        except NoNodeError:
            return ENDED
        return STOOD_DOWN if handed_over == str(current.term).encode() else ENDED

    def _lead(self, client: KazooClient) -> float:
        if not self._node:
            self._lead_no_more("its node is gone")
            return 0.0
        self._ask_for_confirmation(client)
        now = self._clock()
        if not 0 <= now - self._term_looked_at < TERM_LOOK_SECONDS:
            self._term_looked_at = now
            self._check_term(fence.current())
        return CONFIRM_SHARE * self._seconds

    def _ask_for_confirmation(self, client: KazooClient) -> None:
        """Without waiting for it: whoever waits can't resign."""
        if self._asking is not None and not self._asking.ready():
            return
        asked_at = self._asked_at = self._clock()
        self._asking = client.set_async(f"{self._folder}/{self._node}", self.name.encode())
        self._asking.rawlink(self._confirmation(asked_at))

    def _confirmation(self, asked_at: float) -> Callable[[Any], None]:
        def take(answer: Any) -> None:
            if answer.successful():
                self._confirm(asked_at)
            elif isinstance(answer.exception, NoNodeError):
                self._node = ""
                self._lead_no_more("its node is gone")
                self._wake()

        return take

    def _step_down(self) -> None:
        self._elected_at = None
        client, node = self._client, self._node
        if client is None or not node or not client.connected:
            return
        self._node = ""
        term = self._term or max(self._given_up, default=0)
        leaving = client.transaction()  # with the reason, which the next leader reads
        leaving.set_data(self._address.path(HANDED_OVER), str(term).encode())
        leaving.delete(f"{self._folder}/{node}")
        if any(isinstance(each, Exception) for each in self._get(leaving.commit_async())):
            self._delete(client, node)

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            _end(client)


def _sequence(node: str) -> str:
    return node[-SEQUENCE_DIGITS:]


def _end(client: KazooClient) -> None:
    with contextlib.suppress(Exception):  # whatever it is in, it is of no more use
        client.stop()
        client.close()
