"""The sweep: finds clearings that nobody is working on and dispatches them. Every second, all the
time; two at once are harmless.

A queued clearing's message is sent again only when it is gone, not because a backlog is long
(design, section 6): the broker's generation is another one, or the clearing has been unclaimed for
a while and both queues that it may be in are past it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from time import monotonic
from typing import TypeVar

import structlog
from django.conf import settings
from django.db import Error as DatabaseError

from base import metrics
from base.alarms import alarm
from base.fence import Fence, TermOutdated, fenced, no_fence
from clearing.dispatch import broker, publish
from clearing.dispatch.queues import ISOLATED_QUEUE, RESUME_QUEUE, lane_queue
from clearing.gateways import counterparty_state
from clearing.gateways.circuit_breaker import OVER_MINUTE
from clearing.store import bounds, interventions, recovery
from clearing.store.claims import ClearingRef
from clearing.store.recovery import Unclaimed
from ops.jobs.exclusive import exclusive
from ops.liveness import heartbeats
from ops.liveness.zookeeper_members import missing

log = structlog.get_logger(__name__)
ACTOR = "sweep"
REMINDED_ROWS_MAX = 20  # of one pass: people and webhooks take no more
REMINDER_WINDOW_ROWS = 2_000  # of those that are due, to look for a CLOSE among
EXPIRED_ROWS_MAX = 100
T = TypeVar("T")
LANES_A_PASS = 1_000  # of those with waiting orders, in turn: a net under something that never happens
PAST_MS = 500  # a queue is past a message when it has come to one that much younger: workers hold some that they haven't claimed yet
SENT_ROWS = 200  # marked as sent again in one transaction, without a lane's lock
SWEEP_LOCK = 0x7377656570  # "sweep": on a slow database the next one isn't added to the one that runs
IDLE_SECONDS_MAX = 5.0  # between two statements of a sweep: a frozen one keeps the others waiting no longer
FORMER_ACTIONS = {"marked_dead": "buried"}  # labels of the release before, counted as well until the next one
CHUNK_ROWS = 25  # lane locks of one transaction: short, and far below the lock table's size


@dataclass(slots=True)
class _Walk:
    after: str = ""  # the user whose lane was looked at last


_walk = _Walk()


def sweep_exclusively(fence: Fence) -> Counter[str] | None:
    """One pass, or None where another is in progress. Raises what `sweep` raises."""
    with exclusive(SWEEP_LOCK, idle_seconds_max=IDLE_SECONDS_MAX) as ours:
        return sweep(fence) if ours else None


def sweep(fence: Fence = no_fence) -> Counter[str]:
    """One pass. Returns how many clearings were taken back, queued because they were due, sent
    again, promoted in stalled lanes; of how many people were reminded; and how many interventions
    expired.

    Every write is under the fence. Raises TermOutdated as soon as that is over, and what the last
    stage that failed raised.
    """
    generation = broker.read_generation()
    counts: Counter[str] = Counter()
    failed: Exception | None = None
    for stage in (_mark_dead, _take_back, _bring_forward, _queue_due, _send_gone, _promote_stalled, _bound_minute, _expire, _remind, _remind_unknown):
        try:
            counts += stage(generation, fence)
        except TermOutdated:
            raise
        except Exception as error:
            log.exception("a stage of the sweep failed", stage=stage.__name__, fix="nothing: the next pass tries again")
            failed = error
    for action, count in counts.items():
        metrics.SWEEP_ACTIONS.labels(action).inc(count)
        if action in FORMER_ACTIONS:
            metrics.SWEEP_ACTIONS.labels(FORMER_ACTIONS[action]).inc(count)
    if counts:
        log.info("sweep", **counts)
    if failed is not None:
        raise failed
    return counts


def _mark_dead(_generation: str, fence: Fence) -> Counter[str]:
    """Before the requeue, which takes back what the dead had claimed."""
    beats = heartbeats.living()
    absent = missing.names()
    dead = [name for name in heartbeats.monitor.dead(beats, monotonic(), absent) if heartbeats.mark_dead(name, beats[name], fence)]
    for name in dead:
        missing.forget(name)
        log.warning("a process went silent", incarnation=name, fix="nothing: its claims are taken back")
    return Counter(marked_dead=len(dead))


def _take_back(generation: str, fence: Fence) -> Counter[str]:
    return _in_chunks(recovery.orphaned(settings.SWEEP_ROWS_MAX), CHUNK_ROWS, lambda ids: _requeue_rows(ids, generation, fence))


def _in_chunks(rows: Sequence[T], size: int, act: Callable[[Sequence[T]], Counter[str]]) -> Counter[str]:
    """In small transactions; where one fails, row by row, so that a bad row stops nobody else."""
    counts: Counter[str] = Counter()
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        try:
            counts += act(chunk)
        except DatabaseError:
            for row in chunk:
                with suppress_logged(row):
                    counts += act([row])
    return counts


def _bring_forward(_generation: str, fence: Fence) -> Counter[str]:
    """What waits longer than its counterparty was away; no more than one pass queues, so that they
    don't all come at once.
    """
    ids = recovery.outlasting(settings.SWEEP_ROWS_MAX)
    if not ids:
        return Counter()
    with fenced(fence):
        return Counter(brought_forward=recovery.bring_forward(ids))


def _queue_due(generation: str, fence: Fence) -> Counter[str]:
    """No more for each counterparty than may be called: none of what is paused or down, few of what
    is full.
    """
    now = counterparty_state.read()
    free_slots = counterparty_state.free_slots(now, settings.SWEEP_ROWS_MAX, settings.SWEEP_SECONDS)
    due = recovery.due(free_slots, settings.SWEEP_ROWS_MAX, paused=now.paused)
    return _in_chunks(due, CHUNK_ROWS, lambda ids: _requeue_rows(ids, generation, fence))


def _requeue_rows(ids: Sequence[int], generation: str, fence: Fence) -> Counter[str]:
    with fenced(fence):
        found = recovery.requeue(ids, actor=ACTOR, generation=generation)
        lost = recovery.lost_attempts(found)
    for counterparty, action, number in lost:
        metrics.observe_lost(counterparty, action, number)
    publish.publish([row.ref for row in found if row.ref is not None], queue=RESUME_QUEUE)
    for row in found:
        if row.parked_as:
            alarm("parked", "an order needs a person", order_id=row.order_id, error_code=row.parked_as)
    return Counter("parked" if row.parked_as else f"was_{row.found}" for row in found)


@contextmanager
def suppress_logged(row: object) -> Iterator[None]:
    """Lets the pass go on after a row that the database refuses."""
    try:
        yield
    except DatabaseError:
        log.exception("a clearing can't be queued again", row=row)


def _send_gone(generation: str, fence: Fence) -> Counter[str]:
    unclaimed = recovery.unclaimed(generation, gone_seconds=settings.SWEEP_UNCLAIMED_AFTER_SECONDS, limit=settings.SWEEP_ROWS_MAX)
    gone = [(clearing.id, clearing.epoch) for clearing in _gone(unclaimed, generation)]
    return _in_chunks(gone, SENT_ROWS, lambda chunk: _send(partial(recovery.resend, chunk, generation=generation), "sent_again", fence))


def _send(queue: Callable[[], Sequence[ClearingRef]], action: str, fence: Fence) -> Counter[str]:
    with fenced(fence):
        refs = queue()
    publish.publish(refs)
    return Counter({action: len(refs)})


def _gone(unclaimed: Iterable[Unclaimed], generation: str) -> list[Unclaimed]:
    @lru_cache
    def passed(queue: str) -> int | None:
        return broker.oldest_queued_ms(queue) if broker.length(queue) else None

    def is_past(queue: str, clearing: Unclaimed) -> bool:
        oldest = passed(queue)
        return oldest is None or oldest > clearing.queued_ms + PAST_MS

    def is_gone(clearing: Unclaimed) -> bool:
        if clearing.isolated:
            return clearing.generation != generation or is_past(ISOLATED_QUEUE, clearing)
        if clearing.generation != generation or clearing.lane >= settings.CLEARING_LANES:
            return True
        return is_past(lane_queue(clearing.lane), clearing) and is_past(RESUME_QUEUE, clearing)

    return [clearing for clearing in unclaimed if is_gone(clearing)]


def _promote_stalled(generation: str, fence: Fence) -> Counter[str]:
    users, _walk.after = recovery.stalled_lanes(_walk.after, LANES_A_PASS)

    def promote(chunk: Sequence[str]) -> Counter[str]:
        return _send(partial(recovery.promote_lanes, chunk, actor=ACTOR, generation=generation), "stalled", fence)

    return _in_chunks(users, CHUNK_ROWS, promote)


def _bound_minute(_generation: str, fence: Fence) -> Counter[str]:
    """More than CLEARING_USDT_PER_MINUTE_MAX has begun to move: new orders wait, nothing parks."""
    with fenced(fence):
        minute = bounds.bound_minute(ACTOR)
    if minute.changed == "paused":
        message = "more USDT has begun to move within a minute than the bound allows: new orders wait"
        alarm(OVER_MINUTE, message, usdt=minute.usdt, bound=settings.CLEARING_USDT_PER_MINUTE_MAX)
    return Counter({f"minute_{minute.changed}": 1}) if minute.changed else Counter()


def _expire(_generation: str, fence: Fence) -> Counter[str]:
    """Interventions that nobody approved in time."""
    with fenced(fence):
        return Counter(expired=interventions.expire(EXPIRED_ROWS_MAX))


def _remind(_generation: str, fence: Fence) -> Counter[str]:
    """Orders that have waited for a person for PARKED_REMINDER_SECONDS raise their alarm again, a
    CLOSE first: its user isn't paid.
    """
    with fenced(fence):
        waiting = interventions.remind(limit=REMINDED_ROWS_MAX, window=REMINDER_WINDOW_ROWS)
    for order in waiting:
        message = "a closed order still needs a person: its user isn't paid" if order.direction == "CLOSE" else "an order still needs a person"
        alarm("parked", message, **{**asdict(order), "waiting_seconds": round(order.waiting_seconds)})
    return Counter(reminded=len(waiting))


def _remind_unknown(_generation: str, fence: Fence) -> Counter[str]:
    """Orders whose outcome nobody has known for PARKED_REMINDER_SECONDS: nothing parks them, and
    where every answer is just unreadable no breaker opens either. They hold their users' lanes.
    """
    with fenced(fence):
        unknown = interventions.remind_unknown(limit=REMINDED_ROWS_MAX, window=REMINDER_WINDOW_ROWS)
    for order in unknown:
        seconds = round(order.unknown_seconds)
        alarm("outcome_unknown", "it still isn't known what became of an operation", **{**asdict(order), "unknown_seconds": seconds})
    return Counter(reminded_unknown=len(unknown))
