"""In-process registry of running claims, so that two threads never run one epoch.

A claim in the database names a worker process. Two of its threads share that name, so only the
process itself can tell them apart.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """The clearings, by id and epoch, that this process's threads are claiming or running. Safe in
    threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: set[tuple[int, int]] = set()

    @contextmanager
    def claim(self, clearing_id: int, epoch: int) -> Iterator[bool]:
        """Yields whether no other thread has claimed this epoch; if so, it is this thread's until
        the end of the block.
        """
        epoch_of_clearing = (clearing_id, epoch)
        with self._lock:
            is_first = epoch_of_clearing not in self._claimed
            self._claimed.add(epoch_of_clearing)
        try:
            yield is_first
        finally:
            if is_first:
                with self._lock:
                    self._claimed.discard(epoch_of_clearing)
