"""Something that happens at the same moment as the test, on a connection of its own."""

import threading
from collections.abc import Callable

from django.db import connection


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
