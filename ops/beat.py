"""`celery -A acceptance_site beat -S ops.beat:LeaderScheduler`: any number of beats run, and the
leader alone sends the periodic jobs.

No schedule file: who becomes leader sends every job at once, since nobody knows what the one before
had done; each is harmless at any time. A job isn't piled up: as long as one like it, of this term,
waits in the queue, the next isn't sent. The queue itself says so, which no dead worker can leave
behind wrongly. One that is being run is left to the worker, which does one of a kind at a time
(ops/jobs/exclusive.py).
"""

import copy
from datetime import UTC, datetime
from typing import Any, Final

import redis
import structlog
from celery.beat import ScheduleEntry, Scheduler

from base import metrics
from clearing.dispatch import broker
from clearing.dispatch.queues import OPS_QUEUE
from ops.jobs.run import TERM_HEADER
from ops.leadership import make_candidate

log = structlog.get_logger(__name__)
LONG_AGO: Final = datetime(2000, 1, 1, tzinfo=UTC)
LEADER_POLL_SECONDS: Final = 0.1  # how soon a new leader begins
BROKER_RETRY_SECONDS: Final = 1.0
LOOK_AT_MAX: Final = 50  # messages; more than that wait only where no worker takes any, and then one more is of no use
STALL_SECONDS: Final = 15.0  # of a loop that doesn't come round: a publish to a frozen broker takes a third of it


class LeaderScheduler(Scheduler):
    """Celery's scheduler, for the leader."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._candidate = make_candidate(stall_seconds=STALL_SECONDS)  # stands from the first tick on: after every fork
        self._term: int | None = None
        self._closed = False
        super().__init__(*args, **kwargs)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Sends one job that is due, if we lead; seconds until the next look. Raises SystemExit
        once it is closed.

        The handler of SIGTERM raises it as well, but where it interrupts a finaliser Python drops
        that, and this beat would stand again.
        """
        if self._closed:
            raise SystemExit
        self._candidate.campaign()
        self._candidate.touch()
        term = self._candidate.term
        if term is None:
            return LEADER_POLL_SECONDS
        if term != self._term:
            self._term = term
            self._make_all_due()
        try:
            return min(super().tick(*args, **kwargs), LEADER_POLL_SECONDS)
        except redis.RedisError as error:
            log.warning("the broker doesn't take jobs", error=str(error), fix="nothing: they are sent when it is back")
            return BROKER_RETRY_SECONDS

    def apply_async(self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any) -> Any:
        """Sends the job with the leader's term, unless one like it waits already, or we lead no
        more.
        """
        term = self._candidate.term
        if term is None:
            return None
        if waits(str(entry.task), term):
            metrics.JOBS_NOT_SENT.labels(entry.task).inc()
            return None
        sent = copy.copy(entry)
        sent.options = {**(entry.options or {}), "headers": {TERM_HEADER: term}}
        return super().apply_async(sent, producer=producer, advance=False, **kwargs)

    def close(self) -> None:
        """First of all hands over; also from the handler of SIGTERM, which may interrupt this
        thread anywhere.
        """
        self._closed = True
        self._candidate.resign()
        super().close()

    def _ensure_connected(self) -> Any:
        """Celery's waits here for a broker that is away, with pauses of up to 30 s; the publish
        tells it as well, and the next tick tries again.
        """
        return self.connection

    def _make_all_due(self) -> None:
        for entry in self.schedule.values():
            entry.last_run_at = LONG_AGO
        self._heap = None


def waits(task: str, term: int) -> bool:
    """Whether a job of this kind and term waits in the queue. Raises redis.RedisError."""
    if broker.length(OPS_QUEUE) > LOOK_AT_MAX:
        return True
    return any(headers.get("task") == task and headers.get(TERM_HEADER) == term for headers in broker.waiting(OPS_QUEUE, LOOK_AT_MAX))
