"""Two transactions at once, one of which waits for the other."""

import threading
import time
from collections.abc import Callable

from django.db import connection

from base.db import call


def in_a_thread(act: Callable[[], object]) -> threading.Thread:
    """Begins to do it beside this thread, on a connection of its own."""

    def run() -> None:
        try:
            act()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def until_somebody_waits_for_a_lock(*, sessions: int = 1, seconds: float = 20) -> None:
    """Until so many sessions wait for a lock that another one holds."""
    deadline = time.monotonic() + seconds
    while call("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted", [])[0][0] < sessions:
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.02)
