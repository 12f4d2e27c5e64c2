"""The one place that builds and publishes chains: `chain(step_1.si(…), …, step_4.si(…))` from a
clearing's own step on, on its lane's queue.

This is the transactional outbox pattern: a transaction queues a clearing in its row, the message is
published after the commit, and the sweep publishes again what got lost. So publishing never raises
while the broker is unavailable, and a message is only a hint to look at a row.

Celery builds the chain once a process for each first step, on an in-memory transport; a message is
that template with other ids and arguments, published by kombu's batch: 32 µs instead of 600.
"""

import json
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast

import redis
import structlog
from celery import chain, current_app, signature
from django.conf import settings
from kombu import Connection, Producer
from kombu.exceptions import KombuError

from base import metrics
from clearing.dispatch import broker
from clearing.dispatch.queues import ISOLATED_QUEUE, RESUME_QUEUE, lane_queue
from clearing.flow.flows import LAST_STEP
from clearing.store.claims import ClearingRef

log = structlog.get_logger(__name__)
generation = broker.generation
BROKER_ERRORS = (KombuError, redis.RedisError, OSError)
_ID, _EPOCH = 7_777_777_777_777_777, 7_777_777_777  # stand-ins in the template: numbers that nothing else in it can be


@dataclass(frozen=True, slots=True)
class Template:
    """A chain's message, taken apart where one differs from the next: `texts` of the body, and
    between each two what stands there (`places`: the stand-ins, or the number of one of the chain's
    tasks).
    """

    texts: tuple[str, ...]
    places: tuple[int, ...]
    headers: dict[str, Any]

    @classmethod
    def of(cls, body: str, headers: dict[str, Any], later_task_ids: Sequence[str]) -> "Template":
        """Of a message that was built with the stand-ins, and the ids of the tasks after its own,
        in their order.
        """
        places = {str(_ID): _ID, str(_EPOCH): _EPOCH} | {task_id: number for number, task_id in enumerate(later_task_ids, start=1)}
        parts = re.split(f"({'|'.join(places)})", body)
        return cls(tuple(parts[::2]), tuple(places[found] for found in parts[1::2]), headers)

    def message(self, ref: ClearingRef) -> tuple[str, dict[str, Any], str]:
        """(body, headers, task id) for one clearing."""
        prefix = task_id_prefix()
        known = {_ID: str(ref.id), _EPOCH: str(ref.epoch)}
        filled = [known.get(place) or f"{prefix}{place:x}" for place in self.places]
        body = "".join([part for pair in zip(self.texts, filled, strict=False) for part in pair]) + self.texts[-1]
        first = f"{prefix}0"
        arguments = f"{{'clearing_id': {ref.id}, 'epoch': {ref.epoch}}}"
        own = {"id": first, "root_id": first, "kwargsrepr": arguments, broker.QUEUED_MS_HEADER: ref.queued_ms}
        return body, {**self.headers, **own}, first


def task_id_prefix() -> str:
    """All but the last digit of a random id in the form of a UUID: the tasks of one chain differ by
    that, and cost one call of the kernel's.
    """
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:31]}"


def step_task(step: int) -> str:
    """The name of a step's task."""
    return f"clearing.step_{step}"


def _build(step: int) -> Template:
    steps = [signature(step_task(n), kwargs={"clearing_id": _ID, "epoch": _EPOCH}, immutable=True) for n in range(step, LAST_STEP + 1)]
    with Connection("memory://") as connection:
        chain(*steps).apply_async(queue=RESUME_QUEUE, connection=connection)
        message = connection.SimpleQueue(RESUME_QUEUE).get(timeout=1)
        message.ack()
    body = cast("bytes", message.body).decode()
    rest = [link["options"]["task_id"] for link in reversed(json.loads(body)[2]["chain"] or [])]
    return Template.of(body, dict(message.headers), rest)


class _Publisher(threading.local):
    """A producer for each thread: no pool to wait for, and a broken connection is this thread's own
    to mend.
    """

    producer: Any = None  # a kombu Producer: its stubs lack what it has got since 5.6

    def get(self) -> Any:
        if self.producer is None:
            self.producer = Producer(current_app.connection_for_write())
            if not self.producer.supports_batch_publish:
                raise RuntimeError("the broker's transport options make kombu publish one by one: take retry, retry_on_timeout out of them")
        return self.producer

    def drop(self) -> None:
        if self.producer is not None:
            producer, self.producer = self.producer, None
            producer.connection.release()


@dataclass(slots=True)
class _Unavailable:
    since: float = float("-inf")


_publisher = _Publisher()
_unavailable = _Unavailable()
FAIL_FAST_SECONDS = 1.0  # after a failure publishers don't try for so long: the sweep sends what they have
_templates: dict[int, Template] = {}
_templates_lock = threading.Lock()


def template(step: int) -> Template:
    """The template of the chain that begins with `step`."""
    with _templates_lock:
        if step not in _templates:
            _templates[step] = _build(step)
        return _templates[step]


def queue_of(ref: ClearingRef, wanted: str | None = None) -> str:
    """The queue `wanted`, or the lane's; of a lane that no longer exists (CLEARING_LANES was
    lowered), the resume queue. A poison candidate goes to the isolated queue, whatever is `wanted`.
    """
    if ref.isolated or wanted:
        return ISOLATED_QUEUE if ref.isolated else str(wanted)
    return lane_queue(ref.lane) if ref.lane < settings.CLEARING_LANES else RESUME_QUEUE


def publish(refs: Sequence[ClearingRef], *, queue: str | None = None) -> bool:
    """Sends a chain for each clearing, after the commit that queued them; to their lanes, or all to
    `queue`.

    False when the broker didn't take them: logged and counted, and the sweep sends them again.
    """
    if not refs:
        return True
    try:
        _send_or_reconnect(refs, queue)
    except BROKER_ERRORS as error:
        _unavailable.since = monotonic()
        metrics.PUBLISH_FAILURES.inc(len(refs))
        log.warning("publish failed", clearings=len(refs), error=str(error), fix="nothing: the sweep sends them again")
        return False
    return True


def _send_or_reconnect(refs: Sequence[ClearingRef], queue: str | None) -> None:
    """Sends once more on a new connection after the first failure: a kept connection may be dead
    while the broker is available.
    """
    if monotonic() - _unavailable.since < FAIL_FAST_SECONDS:
        raise ConnectionRefusedError("the broker was unavailable a moment ago, and isn't tried again yet")
    try:
        _send(refs, queue)
    except BROKER_ERRORS:
        _publisher.drop()
        _send(refs, queue)


def _send(refs: Sequence[ClearingRef], queue: str | None) -> None:
    producer = _publisher.get()
    with producer.batch():
        for ref in refs:
            body, headers, task_id = template(ref.step).message(ref)
            producer.publish(
                body.encode(),
                exchange="",
                routing_key=queue_of(ref, queue),
                content_type="application/json",
                content_encoding="utf-8",
                headers=headers,
                correlation_id=task_id,
            )
