"""Leadership by a lease in PostgreSQL, where no ZooKeeper is configured.

Each candidate beats in a row of its own; the leader's beat is its lease. Silence is what a
candidate has watched itself, look by look (ops/liveness/heartbeats.py), never a difference of
stored times: neither a jump of the database's clock nor an outage of PostgreSQL makes anybody
silent. Whoever finds the leader's row gone or silent takes the next term; that UPDATE lets one win.
"""

from datetime import datetime
from typing import Final

from base import fence
from base.db import call
from ops.leadership.candidate import CONFIRM_SHARE, Clock, LeaderCandidate, boottime
from ops.liveness.heartbeats import HeartbeatMonitor

LEASE_POLL_SECONDS: Final = 0.05  # how soon a leader's resigning is seen: two index lookups each time
FIRST, STOOD_DOWN, SILENT = "nobody led", "the leader stood down", "the leader went silent"
_BEAT = (
    "INSERT INTO base_candidate (name) VALUES (%s) ON CONFLICT (name) DO UPDATE SET beat_at = greatest(service_now(),"
    " base_candidate.beat_at + interval '1 microsecond') RETURNING name"
)
_BEATS = "SELECT name, beat_at FROM base_candidate"
_LEAVE = "DELETE FROM base_candidate WHERE name = %s RETURNING name"
_FORGET = "DELETE FROM base_candidate WHERE name = %s AND beat_at = %s RETURNING name"
_MEMBERS = "SELECT c.name FROM base_candidate c ORDER BY NOT EXISTS (SELECT FROM base_leaderterm t WHERE t.leader = c.name), c.name"


class LeaseCandidate(LeaderCandidate):
    """A candidate for the lease."""

    def __init__(self, name: str, *, seconds: float, clock: Clock = boottime, stall_seconds: float = float("inf")) -> None:
        super().__init__(name, seconds=seconds, clock=clock, stall_seconds=stall_seconds)
        self._watch = HeartbeatMonitor(unseen_seconds=seconds, dead_seconds=seconds)
        self._beat_at = float("-inf")

    def members(self) -> list[str]:
        return [name for (name,) in call(_MEMBERS, [])]

    def _campaign_round(self) -> float:
        asked_at = self._clock()
        if not 0 <= asked_at - self._beat_at < CONFIRM_SHARE * self._seconds:
            call(_BEAT, [self.name])
            self._beat_at = asked_at
        current = fence.current()
        beats: dict[str, datetime] = dict(call(_BEATS, []))
        self._check_term(current)
        silent = self._watch.dead(beats, asked_at)
        if self._term is not None:
            self._confirm(self._beat_at)
            self._forget(silent, beats)
        elif current.leader in beats and current.leader not in {*silent, self.name}:
            self._see_leader()
        elif self.name in beats:
            reason = SILENT if current.leader in silent else STOOD_DOWN if current.leader else FIRST
            self._take_term(current, self._beat_at, reason)
        return LEASE_POLL_SECONDS

    def _forget(self, silent: list[str], beats: dict[str, datetime]) -> None:
        for name in silent:
            if name != self.name:
                call(_FORGET, [name, beats[name]])

    def _step_down(self) -> None:
        call(_LEAVE, [self.name])
        self._beat_at = float("-inf")

    def _close(self) -> None:
        """Its connection is the thread's."""
