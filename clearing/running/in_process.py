"""What this process is at. The claim of an epoch is a worker's, and two of its threads have one
name: only the process itself can tell them apart.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class UnderWay:
    """The clearings, by id and epoch, that a process's threads are claiming or running. Safe in
    threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entered: set[tuple[int, int]] = set()

    @contextmanager
    def entered(self, clearing_id: int, epoch: int) -> Iterator[bool]:
        """Whether no other thread is at it: then this one is, to the end of the block."""
        one = (clearing_id, epoch)
        with self._lock:
            is_first = one not in self._entered
            self._entered.add(one)
        try:
            yield is_first
        finally:
            if is_first:
                with self._lock:
                    self._entered.discard(one)
