"""Looks at the incarnations' beats twice a second, in every process that sweeps; the sweeps bury who was silent for too long.

The sweeps' own looks aren't enough: with several `worker-ops` each runs only some of the sweeps, and silence that it hasn't watched itself counts
for little (ops/pulse.py). Measured with two of them: a killed worker's orders moved again after 5.8 s. Looking writes nothing, so it takes no leader.
"""

import threading
from dataclasses import dataclass, field
from time import monotonic

import structlog

from base.db import drop_broken_connection
from ops import pulse

log = structlog.get_logger(__name__)
LOOK_SECONDS = 0.5


@dataclass
class Watcher:
    """The looking thread of one process."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins, unless it has begun; it ends with the process."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_on, name="watcher", daemon=True)
                self._thread.start()

    def _look_on(self) -> None:
        pause = threading.Event()
        while not pause.wait(LOOK_SECONDS):
            look()


def look() -> None:
    """One look. Never raises: whatever is away, the next look finds it back."""
    try:
        pulse.watch.dead(pulse.living(), monotonic())
    except Exception as error:
        drop_broken_connection()
        log.warning("a look at the beats failed", error=str(error).strip(), fix="nothing: the next one is made in half a second")


watcher = Watcher()
