"""The sweep: finds clearings that nobody is working on and dispatches them. Every second, all the time; two at once are harmless.

A queued clearing's message is sent again only when it is gone, not because a backlog is long (design, section 6): the broker's generation is
another one, or the clearing has been unclaimed for a while and both queues that it may be in are past it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from time import monotonic

import structlog
from django.conf import settings
from django.db import DatabaseError

from acceptance_site.celery import RESUME_QUEUE, lane_queue
from base import metrics
from base.fence import Fence, TermOutdated, fenced, no_fence
from clearing import broker, pipeline, store
from clearing.store import Unclaimed
from ops import pulse
from ops.alone import alone
from ops.members import missing

log = structlog.get_logger(__name__)
ACTOR = "sweep"
SWEEP_LOCK = 0x7377656570  # "sweep": on a slow database the next one isn't added to the one that runs
IDLE_SECONDS_MAX = 5.0  # between two statements of a sweep: a frozen one keeps the others waiting no longer
CHUNK_ROWS = 25  # lane locks of one transaction: short, and far below the lock table's size


def sweep_alone(fence: Fence) -> Counter[str] | None:
    """One pass, unless one is under way: then None. Raises what `sweep` raises."""
    with alone(SWEEP_LOCK, idle_seconds_max=IDLE_SECONDS_MAX) as ours:
        return sweep(fence) if ours else None


def sweep(fence: Fence = no_fence) -> Counter[str]:
    """One pass. Returns how many clearings were taken back, queued because they were due, sent again, and promoted in stalled lanes.

    Every write is under the fence. Raises TermOutdated as soon as that is over, and what the last stage that failed raised.
    """
    generation = broker.read_generation()
    counts: Counter[str] = Counter()
    failed: Exception | None = None
    for stage in (_bury_the_dead, _requeue, _send_gone, _promote_stalled):
        try:
            counts += stage(generation, fence)
        except TermOutdated:
            raise
        except Exception as error:
            log.exception("a stage of the sweep failed", stage=stage.__name__, fix="nothing: the next pass tries again")
            failed = error
    for action, count in counts.items():
        metrics.SWEEP_ACTIONS.labels(action).inc(count)
    if counts:
        log.info("sweep", **counts)
    if failed is not None:
        raise failed
    return counts


def _bury_the_dead(_generation: str, fence: Fence) -> Counter[str]:
    """Before the requeue, which takes back what the dead had claimed."""
    beats = pulse.living()
    absent = missing.names()
    dead = [name for name in pulse.watch.dead(beats, monotonic(), absent) if pulse.bury(name, beats[name], fence)]
    for name in dead:
        missing.forget(name)
        log.warning("a process went silent", incarnation=name, fix="nothing: its claims are taken back")
    return Counter(buried=len(dead))


def _requeue(generation: str, fence: Fence) -> Counter[str]:
    """In small transactions; where one fails, row by row, so that a bad row stops nobody else."""
    counts: Counter[str] = Counter()
    candidates = store.interrupted(settings.SWEEP_ROWS_MAX)
    for start in range(0, len(candidates), CHUNK_ROWS):
        chunk = candidates[start : start + CHUNK_ROWS]
        try:
            counts += _requeue_rows(chunk, generation, fence)
        except DatabaseError:
            for row in chunk:
                with suppress_logged(row):
                    counts += _requeue_rows([row], generation, fence)
    return counts


def _requeue_rows(ids: list[int], generation: str, fence: Fence) -> Counter[str]:
    with fenced(fence):
        found = store.requeue(ids, actor=ACTOR, generation=generation)
    pipeline.publish([ref for _, ref in found], queue=RESUME_QUEUE)
    return Counter(f"was_{state}" for state, _ in found)


@contextmanager
def suppress_logged(clearing_id: int) -> Iterator[None]:
    """Lets the pass go on after a row that the database refuses."""
    try:
        yield
    except DatabaseError:
        log.exception("a clearing can't be queued again", clearing_id=clearing_id)


def _send_gone(generation: str, fence: Fence) -> Counter[str]:
    suspects = store.unclaimed(generation, gone_seconds=settings.SWEEP_GONE_SECONDS, limit=settings.SWEEP_ROWS_MAX)
    gone = [(suspect.id, suspect.epoch) for suspect in _gone(suspects, generation)]
    if not gone:
        return Counter()
    with fenced(fence):
        refs = store.resend(gone, generation=generation)
    pipeline.publish(refs)
    return Counter(sent_again=len(refs))


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


def _promote_stalled(generation: str, fence: Fence) -> Counter[str]:
    users = store.stalled_lanes(settings.SWEEP_ROWS_MAX)
    if not users:
        return Counter()
    with fenced(fence):
        refs = store.promote_lanes(users, actor=ACTOR, generation=generation)
    pipeline.publish(refs)
    return Counter(stalled=len(refs))
