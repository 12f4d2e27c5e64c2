"""Finds dead processes: incarnations whose heartbeat doesn't change while this process watches
(design, section 6).

Silence is what this sweeper has itself watched, pass by pass, never a difference of stored times:
after an outage of PostgreSQL, or a pause of this very machine, every stored beat is old and nobody
is dead.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from django.conf import settings

from base.db import call
from base.fence import Fence, fenced, no_fence
from base.incarnation import BEAT_SECONDS

WATCHED_SECONDS_MAX = 1.5  # of silence between two passes that counts; a longer gap was ours
DEAD_SECONDS = 3.0  # of silence of one that we have seen alive
GONE_SECONDS = 2 * BEAT_SECONDS + 0.5  # of silence of one whose node at ZooKeeper went as well: a beat was missed, and the next may be late


@dataclass(slots=True)
class _Heartbeat:
    beat: datetime
    silent: float = 0.0
    seen_alive: bool = False


class HeartbeatMonitor:
    """The heartbeats that one process has seen, and for how long each was silent. Safe in
    threads.
    """

    def __init__(self, unseen_seconds: float, dead_seconds: float = DEAD_SECONDS) -> None:
        self._unseen_seconds = unseen_seconds
        self._dead_seconds = dead_seconds
        self._heartbeats: dict[str, _Heartbeat] = {}
        self._looked_at: float | None = None
        self._lock = threading.Lock()

    def dead(self, beats: Mapping[str, datetime], now: float, missing: Collection[str] = ()) -> list[str]:
        """Shows the latest beats, at a monotonic time; returns those that have been silent for too
        long.

        One that this sweeper never saw alive needs a claim's length of silence; one that is
        `missing` at ZooKeeper little.
        """
        with self._lock:
            first_look = self._looked_at is None
            gap = 0.0 if self._looked_at is None else max(now - self._looked_at, 0.0)
            watched = min(gap, WATCHED_SECONDS_MAX) if gap < self._dead_seconds else 0.0
            self._looked_at = now
            self._forget(gap)
            looked_on = not first_look and gap <= WATCHED_SECONDS_MAX
            self._heartbeats = {name: self._heartbeat(name, beat, watched, looked_on=looked_on) for name, beat in beats.items()}
            return [name for name, heartbeat in self._heartbeats.items() if heartbeat.silent >= self._silence_max(heartbeat, missing=name in missing)]

    def _forget(self, gap: float) -> None:
        """After a gap, as PostgreSQL's outage makes one, nobody is known to be alive: who has lost
        its connection takes a while to beat again.

        Silence goes on to count where passes are only slow: otherwise nobody would ever be found
        dead by them.
        """
        if gap > WATCHED_SECONDS_MAX:
            for heartbeat in self._heartbeats.values():
                heartbeat.seen_alive = False
                heartbeat.silent = 0.0 if gap >= self._dead_seconds else heartbeat.silent

    def _silence_max(self, heartbeat: _Heartbeat, *, missing: bool) -> float:
        silence_max = self._dead_seconds if heartbeat.seen_alive else self._unseen_seconds
        return min(GONE_SECONDS, silence_max) if missing else silence_max

    def _heartbeat(self, name: str, beat: datetime, watched: float, *, looked_on: bool) -> _Heartbeat:
        known = self._heartbeats.get(name)
        if known is None or known.beat != beat:  # it wrote it since the last look; if that is long ago, perhaps before what made the gap
            return _Heartbeat(beat, seen_alive=looked_on)
        return _Heartbeat(beat, known.silent + watched, known.seen_alive)


monitor = HeartbeatMonitor(settings.CLEARING_CLAIM_SECONDS)


def living() -> dict[str, datetime]:
    """The last beat of every incarnation that hasn't ended."""
    return dict(call("SELECT name, beat_at FROM base_incarnation WHERE ended_at IS NULL", []))


def mark_dead(name: str, beat: datetime, fence: Fence = no_fence) -> bool:
    """Declares an incarnation dead, unless it has beaten since. Its claims are taken back by the
    next requeue. Raises TermOutdated.
    """
    sql = (
        "UPDATE base_incarnation SET ended_at = service_now(), \"end\" = 'dead' WHERE name = %s AND beat_at = %s AND ended_at IS NULL RETURNING name"
    )
    with fenced(fence):
        return bool(call(sql, [name, beat]))
