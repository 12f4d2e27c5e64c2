"""Something that happens at the same moment as the test, on a connection of its own."""

import threading
import time
from collections.abc import Callable

from django.db import connection

from base.db import call


def beside(act: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Runs it in a thread; what it returned or raised is in the list once it has ended."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(act())
        except Exception as error:
            found.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


def until_somebody_waits_for_a_lock(*, sessions: int = 1, seconds: float = 20) -> None:
    """Until so many sessions wait for a lock that another one holds."""
    deadline = time.monotonic() + seconds
    while call("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted", [])[0][0] < sessions:
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.02)
