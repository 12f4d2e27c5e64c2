"""Watchdog of the consumer: if its loop makes no progress it ends the process, so that the
supervisor starts another.
"""

import faulthandler
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.conf import settings

from base import alarms
from base.alarms import alarm
from orders.stream.consumer import ExitCode
from orders.stream.progress import Progress

STALL_POLL_SECONDS_MAX = 1.0
STDERR = 2  # the file descriptor: sys.stderr may be anything


@contextmanager
def watched(progress: Progress, end: Callable[[int], None] = os._exit) -> Iterator[threading.Thread]:
    """Watches in a thread of its own while the block runs. If no progress is made for
    CONSUMER_STALL_SECONDS_MAX it writes the stacks of all threads to stderr, raises an alarm and
    ends the process without any cleanup: whatever blocks the loop would block the cleanup, too.

    Waiting for PostgreSQL or for Kafka is progress, since those waits return. Ending is harmless:
    what wasn't committed comes again.
    """
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(progress, over, end, settings.CONSUMER_STALL_SECONDS_MAX), name="stall-watch", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        over.set()


def _watch(progress: Progress, over: threading.Event, end: Callable[[int], None], seconds_max: float) -> None:
    while progress.silent_seconds < seconds_max:
        if over.wait(min(STALL_POLL_SECONDS_MAX, seconds_max / 4)):
            return
    faulthandler.dump_traceback(file=STDERR, all_threads=True)  # before the alarm, which may itself block
    silent_seconds = round(progress.silent_seconds)
    alarm("intake_stuck", "the consumer is stuck in one call and is ended", seconds=silent_seconds, exit_code=int(ExitCode.STUCK))
    alarms.flush()  # os._exit runs no exit handlers
    end(ExitCode.STUCK)
