"""The sweep: finds clearings that nobody is working on and dispatches them. Every second, all the time; two at once are harmless.

A queued clearing's message is sent again only when it is gone, not because a backlog is long (design, section 6): the broker's generation is
another one, or the clearing has been unclaimed for a while and both queues that it may be in are past it.
"""

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import structlog
from django.conf import settings

from acceptance_site.celery import RESUME_QUEUE, lane_queue
from base import metrics
from clearing import broker, pipeline, store
from clearing.status import State
from clearing.store import Unclaimed

log = structlog.get_logger(__name__)
ACTOR = "sweep"


def sweep() -> dict[str, int]:
    """One pass. Returns how many clearings were taken back, queued because they were due, sent again, and promoted in stalled lanes."""
    generation = broker.read_generation()
    counts = Counter({f"was_{state}": count for state, count in _requeue(generation).items()})
    counts["sent_again"] = _send_gone(generation)
    counts["stalled"] = _promote_stalled(generation)
    for action, count in counts.items():
        metrics.SWEEP_ACTIONS.labels(action).inc(count)
    if any(counts.values()):
        log.info("sweep", **counts)
    return dict(counts)


def _requeue(generation: str) -> Counter[State]:
    candidates = store.interrupted(settings.SWEEP_ROWS_MAX)
    found = store.requeue(candidates, actor=ACTOR, generation=generation) if candidates else []
    pipeline.publish([ref for _, ref in found], queue=RESUME_QUEUE)
    return Counter(state for state, _ in found)


def _send_gone(generation: str) -> int:
    suspects = store.unclaimed(generation, gone_seconds=settings.SWEEP_GONE_SECONDS, limit=settings.SWEEP_ROWS_MAX)
    gone = [(suspect.id, suspect.epoch) for suspect in _gone(suspects, generation)]
    refs = store.resend(gone, generation=generation) if gone else []
    pipeline.publish(refs)
    return len(refs)


def _gone(suspects: Iterable[Unclaimed], generation: str) -> list[Unclaimed]:
    @lru_cache
    def passed(queue: str) -> int | None:
        return broker.oldest_queued_ms(queue) if broker.length(queue) else None

    def is_past(queue: str, suspect: Unclaimed) -> bool:
        oldest = passed(queue)
        return oldest is None or oldest > suspect.queued_ms

    def is_gone(suspect: Unclaimed) -> bool:
        if suspect.generation != generation or suspect.lane >= settings.CLEARING_LANES:
            return True
        return is_past(lane_queue(suspect.lane), suspect) and is_past(RESUME_QUEUE, suspect)

    return [suspect for suspect in suspects if is_gone(suspect)]


def _promote_stalled(generation: str) -> int:
    users = store.stalled_lanes(settings.SWEEP_ROWS_MAX)
    refs = store.promote_lanes(users, actor=ACTOR, generation=generation) if users else []
    pipeline.publish(refs)
    return len(refs)
