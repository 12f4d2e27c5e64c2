"""Looks at the incarnations' beats four times a second, in every process that sweeps; one that was
silent for too long has a sweep made at once.

The sweeps' own looks aren't enough: with several `worker-ops` each runs only some of the sweeps,
and silence that it hasn't watched itself counts for little (ops/liveness/heartbeats.py). Nor is
waiting for the next one, which may be run by a process that has only just begun to watch, or by
none while there is no leader: a killed worker's orders moved again after 4.7 s. The looking itself
writes nothing; the sweep is the same as any, under the current term.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from django.db import connection

from base.db import suppress_and_log
from ops.liveness import heartbeats

HEARTBEAT_POLL_SECONDS = 0.25


@dataclass
class Watcher:
    """The looking thread of one process."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _thread: threading.Thread | None = None
    _sweeping: threading.Thread | None = None

    def start(self, sweep: Callable[[], object]) -> None:
        """Begins, unless it has begun; it ends with the process. `sweep` is called when somebody
        died.
        """
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_on, args=(sweep,), name="watcher", daemon=True)
                self._thread.start()

    def _look_on(self, sweep: Callable[[], object]) -> None:
        pause = threading.Event()
        while not pause.wait(HEARTBEAT_POLL_SECONDS):
            look(self._sweep_beside(sweep))

    def _sweep_beside(self, sweep: Callable[[], object]) -> Callable[[], object]:
        """In a thread of its own: a sweep that takes longer than the silence that counts would make
        us forget whom we saw alive.
        """

        def begin() -> None:
            if self._sweeping is None or not self._sweeping.is_alive():
                self._sweeping = threading.Thread(target=_sweep_and_log, args=(sweep,), name="watcher-sweep", daemon=True)
                self._sweeping.start()

        return begin


def _sweep_and_log(sweep: Callable[[], object]) -> None:
    with suppress_and_log("sweep after a process's death failed", fix="nothing: the next check starts another"):
        sweep()
    connection.close()


def look(sweep: Callable[[], object]) -> None:
    """Checks the heartbeats once, and sweeps if a process died. Never raises: after an outage the
    next check succeeds.
    """
    with suppress_and_log("heartbeat check failed", fix="nothing: the next one follows in a moment"):
        if heartbeats.monitor.dead(heartbeats.living(), monotonic()):
            sweep()


watcher = Watcher()
