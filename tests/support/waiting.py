"""Waiting in tests: for a condition, with a deadline; never for a fixed time."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, seconds: float = 30.0, pause_seconds: float = 0.02) -> None:
    """Returns once the condition holds; fails the test when it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain")
        time.sleep(pause_seconds)
