"""The broker in memory: queues of (id, epoch, queued_ms), its generation, and what a Redis client
is asked for.
"""

import json
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from random import Random

from clearing.dispatch import publish
from clearing.store.claims import ClearingRef
from tests.simulation.scheduler import Actor, Scheduler

Message = tuple[int, int, int]
LOST = 0.01  # of messages
REPEATED = 0.02
REPEATS_MAX = 5
DELIVERY_SECONDS = 0.0005


class MemoryBroker:
    """What `clearing.dispatch` publishes to, and workers take from."""

    def __init__(self, scheduler: Scheduler, random: Random) -> None:
        self.quiet = False  # nothing is lost or repeated any more
        self.lost = self.repeated = self.wiped = 0
        self._scheduler = scheduler
        self._random = random
        self._queues: defaultdict[str, deque[Message]] = defaultdict(deque)
        self._keys: dict[str, bytes] = {}
        self._waiting: list[Actor] = []

    # --- Publishing and taking --------------------------------------------------------------------
    def send(self, refs: Sequence[ClearingRef], queue: str | None) -> None:
        """In the place of `publish._send`."""
        for ref in refs:
            for _ in range(self._deliveries()):
                self._queues[publish.queue_of(ref, queue)].append((ref.id, ref.epoch, ref.queued_ms))
                self._wake_one()

    def take(self, gives_up: Callable[[], bool]) -> tuple[str, Message] | None:
        """The next message, of any queue, and which; waits for one."""
        while not gives_up():
            filled = [name for name, messages in self._queues.items() if messages]
            if filled:
                queue = self._random.choice(filled)
                return queue, self._queues[queue].popleft()
            actor = self._scheduler.current
            assert actor is not None
            self._waiting.append(actor)
            self._scheduler.wait()
        return None

    def wake_all(self, actors: Sequence[Actor]) -> None:
        """Those of them that wait for a message look around."""
        for actor in [actor for actor in self._waiting if actor in actors]:
            self._waiting.remove(actor)
            self._scheduler.wake(actor)

    def wipe(self) -> None:
        """FLUSHALL."""
        self.wiped += 1
        self._queues.clear()
        self._keys.clear()

    def _deliveries(self) -> int:
        draw = self._random.random()
        if self.quiet or draw >= LOST + REPEATED:
            return 1
        if draw < LOST:
            self.lost += 1
            return 0
        self.repeated += 1
        return self._random.randint(2, REPEATS_MAX)

    def _wake_one(self) -> None:
        alive = [actor for actor in self._waiting if not (actor.ended or actor.process.dead)]
        self._waiting = alive
        if alive:
            self._scheduler.wake(alive.pop(self._random.randrange(len(alive))), DELIVERY_SECONDS)

    # --- As a Redis client ------------------------------------------------------------------------
    def get(self, key: str) -> bytes | None:
        return self._keys.get(key)

    def set(self, key: str, value: str, *, nx: bool) -> None:
        assert nx
        self._keys.setdefault(key, value.encode())

    def llen(self, queue: str) -> int:
        return len(self._queues[queue])

    def lindex(self, queue: str, index: int) -> bytes | None:
        """The oldest message: the only one that is asked for."""
        assert index == -1
        messages = self._queues[queue]
        return json.dumps({"headers": {"queued_ms": messages[0][2]}}).encode() if messages else None
