"""What a process of the service does, in its own code: takes orders in, runs messages, sweeps,
serves a person.

Each function is a process's main loop, cut down to one round; the loops, signals and threads around
them are other tests' (tests/chaos).
"""

import base64
import json
import os
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, Final

import redis.utils
from celery import signals
from celery.app.trace import build_tracer
from celery.worker import state as worker_state
from django.db import connection
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord

from acceptance_site.celery import app
from base import incarnation
from clearing.dispatch import publish
from clearing.models import Clearing
from clearing.status import ACTIVE
from ops import tasks, wiring
from ops.liveness.watcher import Watcher
from ops.recovery import probe
from ops.recovery import sweep as sweep_module
from orders.intake.first_start import current_rules
from orders.intake.mapping import Rules
from orders.stream import consumer
from orders.stream.consumer import BinlogConsumer, ExitCode
from tests.crashpoints.clock import clock
from tests.crashpoints.points import Event
from tests.crashpoints.process import Process

PARTITION: Final = TopicPartition("counter.sync_order", 0)
PAUSES: Final = (0, 3, 11, 20, 40, *[60] * 20)  # seconds between two rounds of recovery: at once, messages gone, claims ended, due
# Those of intake ask the counter, which its own scenarios bring; the seal moves no order, and is
# one INSERT.
LEFT_OUT: Final = frozenset({"ops.gap_pass", "ops.reconcile", "ops.seal"})
MESSAGES_MAX: Final = 200
WATCH_PASSES: Final = 5  # sees it alive, then three seconds of silence, and one to spare
IDLE_SECONDS_MAX: Final = 120.0  # of real time between two statements of a sweep


def _half(self: object) -> float:
    return 0.5


def _not_beside(self: Watcher, sweep: Callable[[], object]) -> None:
    """In the place of `Watcher.start`."""


def prepare() -> None:
    """Once, before anything forks: what every process would otherwise build again."""
    app.loader.import_default_modules()
    app.finalize()
    for step in range(1, 5):
        publish.template(step)
    random.SystemRandom.random = _half  # type: ignore[method-assign] # the same jitter each time, so that a life can be repeated
    vars(tasks)["in_background"] = probe.at_once  # what a thread does beside the others is no boundary, and its host serves one at a time
    Watcher.start = _not_beside  # type: ignore[method-assign] # a look is made by `sweep` here; a thread's would be in real time
    redis.utils.get_lib_version = cache(redis.utils.get_lib_version)  # read from its package's files for each connection: a sixth of a life
    sweep_module.IDLE_SECONDS_MAX = IDLE_SECONDS_MAX
    consumer.COMMIT_SECONDS = 0  # type: ignore[misc] # offsets are committed after every batch


# --- intake ---------------------------------------------------------------------------------------
class _LogConsumer:
    """As `kafka.KafkaConsumer`, of the host's log."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._position: int = process.ask("committed")
        self._coordinator = SimpleNamespace(need_rejoin=lambda: False)

    def assignment(self) -> set[TopicPartition]:
        return {PARTITION}

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        found = self._process.ask("read", (self._position, max_records))
        self._position += len(found)
        records: list[Any] = [SimpleNamespace(value=value, offset=offset, timestamp=0) for offset, value in found]
        return {PARTITION: records} if records else {}

    def commit(self, offsets: Mapping[TopicPartition, Any], timeout_ms: int) -> None:
        event = self._process.doors.begin("log commit")
        self._process.ask("commit", offsets[PARTITION].offset)
        self._process.doors.end(event)

    def highwater(self, partition: TopicPartition) -> int | None:
        return None

    def close(self, autocommit: bool, timeout_ms: int) -> None:
        pass


def consume(process: Process) -> None:
    """The consumer, until it has read the whole log."""
    _consume(process, current_rules)


def _consume(process: Process, read_rules: Callable[[], Rules]) -> None:
    reader = BinlogConsumer(lambda _: _LogConsumer(process), wiring.ingest_from_kafka, read_rules, threading.Event(), idle_seconds=0.0)
    assert reader.run() == ExitCode.STOPPED


def consume_without_eth(process: Process) -> None:
    """The consumer of a configuration that doesn't know ETH: its orders are quarantined."""
    _consume(process, lambda: replace(current_rules(), scales={"USDT": 6, "BTC": 8}))


# --- a worker -------------------------------------------------------------------------------------
def be_a_worker() -> None:
    """Registers as the worker's first claim would, without the thread that beats: `beat` does
    it.
    """
    incarnation.registration()._heartbeat = threading.Thread()  # never started


def run_message(queue: str, raw: bytes) -> None:
    """Runs a message as Celery's worker does, by its own tracer."""
    message = json.loads(raw)
    args, kwargs, embed = json.loads(base64.b64decode(message["body"]))
    headers = message["headers"]
    task = app.tasks[headers["task"]]
    request = {**headers, **embed, "hostname": "crash@points", "delivery_info": {"exchange": "", "routing_key": queue}, "is_eager": False}
    tracer: Callable[..., Any] = build_tracer(task.name, task, app=app)
    outcome = tracer(headers["id"], args, kwargs, request)
    assert outcome.info is None, f"{task.name} failed: {outcome.info}"


def work(process: Process, messages_max: int = MESSAGES_MAX) -> int:
    """A worker takes messages and runs them until there are none, or so many. Returns how many it
    ran.
    """
    be_a_worker()
    for number in range(messages_max):
        queue, raw = process.ask("take")
        if not raw:
            return number
        run_message(queue, raw)
    assert messages_max < MESSAGES_MAX, "the messages don't come to an end"
    return messages_max


def work_one(process: Process) -> None:
    """A worker takes one message and runs it."""
    assert work(process, 1) == 1, "there was no message to run"


def work_all(process: Process) -> None:
    """A worker runs whatever there is."""
    work(process)


def _be_told_to_stop() -> None:
    flags: Any = worker_state
    flags.should_stop = 0  # as a warm shutdown sets it


def work_until_stopped(process: Process, calls: int) -> None:
    """A worker that is told to stop (SIGTERM) when its nth call is answered, and ends as a stopping
    worker does.
    """
    left = iter(range(calls - 1))

    def stop(event: Event) -> None:
        if event.label.startswith("call") and next(left, None) is None:
            _be_told_to_stop()

    process.doors.listeners.append(stop)
    if not calls:
        _be_told_to_stop()
    work_one(process)
    signals.worker_shutdown.send(sender=None)


# --- worker-ops -----------------------------------------------------------------------------------
def sweep(_: Process) -> None:
    """Every periodic job once, but those that are left out."""
    for entry in app.conf.beat_schedule.values():
        if entry["task"] not in LEFT_OUT:
            app.tasks[entry["task"]](*entry.get("args", ()), **entry.get("kwargs", {}))


def watch_die(process: Process) -> None:
    """A sweeper that has seen a worker alive, until it has taken back what that one had claimed.

    Its passes are a second apart, whatever each of them takes: after a longer gap a sweeper forgets
    whom it has seen alive, and would wait for a claim's length.
    """
    with clock.stopped():
        sweep(process)
        with process.doors.paused(), connection.cursor() as cursor:
            cursor.execute("UPDATE base_incarnation SET beat_at = service_now() + interval '1 second' WHERE ended_at IS NULL")
        for _ in range(WATCH_PASSES):
            process.advance(1)
            sweep(process)


# --- until it is quiet ----------------------------------------------------------------------------
def recover(process: Process, again: Callable[[Process], None] | None) -> None:
    """New processes come up: what was interrupted is repeated by whom it belongs to (`again`), then
    sweeps and workers, until nothing moves.

    Raises AssertionError when something still does after minutes.
    """
    if again is not None:
        again(process)
    for pause in PAUSES:
        process.advance(pause)
        if os.getpid() in incarnation._registrations:
            incarnation.registration().beat()
        sweep(process)
        work(process)
        if pause and is_quiet(process):
            return
    raise AssertionError("it doesn't come to rest")


def is_quiet(process: Process) -> bool:
    """Whether nothing is in flight; a waiting order that nothing blocks is a violation by then."""
    with process.doors.paused():
        active = Clearing.objects.filter(state__in=ACTIVE).exists()
        return not active and not process.ask("waiting")
