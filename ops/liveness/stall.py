"""Liveness by progress: a consumer whose loop stands still ends itself, so that its supervisor
starts another.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.conf import settings

from base import alarms
from base.alarms import alarm
from orders.stream.consumer import BinlogConsumer, ExitCode

STALL_POLL_SECONDS_MAX = 1.0


@contextmanager
def watched(consumer: BinlogConsumer, end: Callable[[int], None] = os._exit) -> Iterator[threading.Thread]:
    """Watches in a thread of its own while the block runs, and ends the process without asking
    anybody: whatever holds the loop would hold its end, too.

    Waiting for PostgreSQL or for Kafka is progress: those waits come round. Ending is harmless:
    what wasn't committed comes again.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(consumer, over, end, settings.CONSUMER_STALL_SECONDS_MAX), name="stall-watch", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        over.set()


def _watch(consumer: BinlogConsumer, over: threading.Event, end: Callable[[int], None], seconds_max: float) -> None:
    while consumer.silent_seconds < seconds_max:
        if over.wait(min(STALL_POLL_SECONDS_MAX, seconds_max / 4)):
            return
    alarm("intake_stuck", "the consumer stood still in one call and is ended", seconds=round(consumer.silent_seconds), exit_code=int(ExitCode.STUCK))
    alarms.flush()  # no exit handler will
    end(ExitCode.STUCK)
