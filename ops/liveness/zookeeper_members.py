"""Detects lost ZooKeeper sessions.

A member counts as lost only if this process saw it in its own current session and other members
remain: otherwise ZooKeeper, or this process's own connection, may be the cause. It is a hint that
needs a stale heartbeat to confirm it (ops/liveness/heartbeats.py): a process that lost its session
alone lives, and keeps its claims.
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
        """The members that were there and no longer are."""
        view = self._look()
        if view is None:
            return frozenset()
        if view.session != self._session:
            self._session, self._seen = view.session, set()
        self._seen |= view.names
        return frozenset(self._seen - view.names) if view.names else frozenset()

    def forget(self, name: str) -> None:
        """It was marked dead."""
        self._seen.discard(name)


def _look() -> View | None:
    return registration("worker-ops").membership.look()


missing = Missing(_look)
