"""Who is missing at ZooKeeper: an absence that says something of the one who is absent, and not of
ZooKeeper or of us.

It counts only against who was seen there by this process in a session of its own that still lasts,
while others stay. It is never enough: the process is buried when its heartbeat in PostgreSQL stands
still as well (ops/liveness/heartbeats.py); one whose session alone ended lives, and keeps its
claims.
"""

from collections.abc import Callable

from base.incarnation import registration
from base.membership import View


class Missing:
    """What one sweeper process has seen of the members."""

    def __init__(self, look: Callable[[], View | None]) -> None:
        self._look = look
        self._session: int | None = None
        self._seen: set[str] = set()

    def names(self) -> frozenset[str]:
        """Who was there and no longer is."""
        view = self._look()
        if view is None:
            return frozenset()
        if view.session != self._session:
            self._session, self._seen = view.session, set()
        self._seen |= view.names
        return frozenset(self._seen - view.names) if view.names else frozenset()

    def forget(self, name: str) -> None:
        """It is buried."""
        self._seen.discard(name)


def _look() -> View | None:
    return registration("worker-ops").membership.look()


missing = Missing(_look)
