"""The garbage collector while a process starts.

What is imported lives as long as its process: 80,000 objects in a worker. CPython's collector looks
through all of them again and again while they become more, in each full collection of a worker's
life, and once more at its end. Without that `manage.py audit --help` takes 1.2 s of CPU instead of
1.6, and a worker that is told to stop takes 0.25 s instead of 0.85.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection within the block, which is for imports."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def leave_alone() -> None:
    """From now on the collector looks only at what is made later. Nothing that is alive now is
    freed by it any more: for the end of a process's imports.
    """
    gc.freeze()
