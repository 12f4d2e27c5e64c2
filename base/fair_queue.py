"""A bounded queue in which a flood of one kind neither delays nor displaces another kind."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """The kinds are taken in turn, each one's things in their order. When it is full, the kind with
    the most things gives up its newest: so of each kind something gets through, for as many kinds
    as the queue is long. Safe in threads.
    """

    def __init__(self, length_max: int) -> None:
        self._length_max = length_max
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._length = 0
        self._unfinished = 0
        self._changed = threading.Condition()

    @property
    def unfinished(self) -> int:
        """How many were put in and not yet reported as done."""
        return self._unfinished

    def put(self, kind: str, thing: T) -> T | None:
        """Puts it in. Returns what was dropped: another, or this one itself."""
        with self._changed:
            dropped = None
            if self._length >= self._length_max:
                fullest = max(self._waiting, key=lambda name: len(self._waiting[name]))
                if fullest == kind:
                    return thing
                dropped = self._remove(fullest, newest=True)
                self._unfinished -= 1
            self._waiting.setdefault(kind, deque()).append(thing)
            self._length += 1
            self._unfinished += 1
            self._changed.notify()
            return dropped

    def get(self) -> T:
        """The oldest of the kind whose turn it is; waits for one."""
        with self._changed:
            self._changed.wait_for(lambda: self._length > 0)
            kind = next(iter(self._waiting))
            thing = self._remove(kind, newest=False)
            if kind in self._waiting:
                self._waiting.move_to_end(kind)
            return thing

    def done(self) -> None:
        """What was taken needs nothing more."""
        with self._changed:
            self._unfinished -= 1

    def _remove(self, kind: str, *, newest: bool) -> T:
        things = self._waiting[kind]
        thing = things.pop() if newest else things.popleft()
        if not things:
            del self._waiting[kind]
        self._length -= 1
        return thing
