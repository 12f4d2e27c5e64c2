"""When the consumer's loop last made progress: what its watchdog (ops/liveness/stall.py) reads."""

import time


class Progress:
    """Stamped by one thread, read by another: a float is written in one step."""

    def __init__(self) -> None:
        self._stamped_at = time.monotonic()

    def stamp(self) -> None:
        """The loop came round, a transaction ended, or a wait for an unavailable server did."""
        self._stamped_at = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """How long ago the last progress was made."""
        return time.monotonic() - self._stamped_at
