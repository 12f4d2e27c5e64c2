"""Virtual time, and actors that are stepped one at a time: whoever is due next runs until it
pauses. Deterministic.

An actor is a thread, because the code under test is plain and knows of no scheduler; only the one
whose turn it is ever runs. It pauses at the doors alone (tests/simulation/doors.py), outside
transactions, so that all of them can share one database connection.
"""

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from zlib import crc32

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

END_SECONDS_MAX = 10


class Dead(BaseException):
    """The actor's process died where it stood. Not an Exception: nothing that the process would
    have done may happen any more.
    """


def _closed() -> threading.Lock:
    """A lock that is held: a semaphore of 0, at a tenth of its cost."""
    lock = threading.Lock()
    lock.acquire()
    return lock


def _open(lock: threading.Lock) -> None:
    """Once is enough."""
    if lock.locked():
        lock.release()


@dataclass(eq=False)
class Process:
    """What dies together. `boot_seconds` and `drift`: its clock beside the virtual one; `in_place`:
    how its release runs a chain.
    """

    name: str
    boot_seconds: float = 0.0
    drift: float = 0.0
    in_place: bool = True
    dead: bool = False


@dataclass(eq=False)
class Actor:
    """One thread of a process."""

    process: Process
    act: Callable[[], None]
    gate: threading.Lock = field(default_factory=_closed)
    turn: int = -1  # the entry of the schedule that is valid
    ended: bool = False


class Scheduler:
    """The schedule, and the virtual time in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.digest = 0  # of everything that happened, in order: two runs of one seed have the same
        self.current: Actor | None = None
        self.on_turn: Callable[[Actor], None] = lambda _: None
        self.failure: BaseException | None = None
        self._due: list[tuple[float, int, Actor]] = []
        self._numbers = count()
        self._actors: list[Actor] = []
        self._threads: list[threading.Thread] = []
        self._main = _closed()
        self._over = False

    def spawn(self, process: Process, act: Callable[[], None], *, after: float = 0.0) -> Actor:
        """A new actor, whose first turn comes after so many seconds."""
        actor = Actor(process, act)
        self._actors.append(actor)
        self._schedule(actor, after)
        thread = threading.Thread(target=self._live, args=[actor], name=process.name, daemon=True)
        self._threads = [*(known for known in self._threads if known.is_alive()), thread]
        thread.start()
        return actor

    def run(self) -> None:
        """Lets the actors act until `stop`. Raises what an actor raised."""
        self.now = 0.0
        self._give_turn()
        self._main.acquire()
        for actor in self._actors:
            _open(actor.gate)  # whoever isn't at its end wakes only to die
        for thread in self._threads:
            thread.join(END_SECONDS_MAX)
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """The run is over: everybody ends where it stands."""
        self._over = True

    def pause(self, seconds: float, what: str = "") -> None:
        """The current actor's next turn comes after so many seconds; others may come before."""
        actor = self.current
        assert actor is not None
        if actor.process.dead:  # it is being ended
            raise Dead
        self.digest = crc32(f"{self.now:.9f} {actor.process.name} {what}".encode(), self.digest)
        self._schedule(actor, seconds)
        self._switch(actor)

    def wait(self) -> None:
        """The current actor's next turn comes when somebody wakes it."""
        actor = self.current
        assert actor is not None
        actor.turn = -1
        self._switch(actor)

    def wake(self, actor: Actor, after: float = 0.0) -> None:
        """Its next turn comes then."""
        if not actor.ended:
            self._schedule(actor, after)

    def kill(self, process: Process) -> None:
        """Nothing of it acts any more. The current actor dies at its next pause, if it is one of
        them.
        """
        process.dead = True
        for actor in self._actors:
            if actor.process is process and actor is not self.current and not actor.ended:
                self._schedule(actor, 0.0)
        self._actors = [actor for actor in self._actors if not actor.ended]

    def _schedule(self, actor: Actor, after: float) -> None:
        actor.turn = next(self._numbers)
        heapq.heappush(self._due, (self.now + after, actor.turn, actor))

    def _switch(self, actor: Actor) -> None:
        if self._give_turn() is not actor:
            actor.gate.acquire()
        if self._over or actor.process.dead:
            raise Dead
        self.on_turn(actor)

    def _give_turn(self) -> Actor | None:
        """Whose turn it is now; lets it go on, unless it is the one that asks."""
        asking = self.current
        if self._over:
            _open(self._main)
            self.current = None
            return None
        while True:
            if not self._due:
                self.failure = self.failure or RuntimeError("nobody has anything left to do")
                self._over = True
                _open(self._main)
                return None
            moment, turn, actor = heapq.heappop(self._due)
            if actor.turn == turn and not actor.ended:
                break
        self.now = max(self.now, moment)
        self.steps += 1
        self.current = actor
        if actor is not asking:
            actor.gate.release()
        return actor

    def _live(self, actor: Actor) -> None:
        actor.gate.acquire()
        connections["default"] = SHARED[0]
        try:
            if not (self._over or actor.process.dead):
                self.on_turn(actor)
                actor.act()
        except Dead:
            pass
        except BaseException as error:
            self.failure, self._over = error, True
        actor.ended = True
        self._give_turn()


SHARED: list[BaseDatabaseWrapper] = []  # the one database connection


def share_connection() -> None:
    """Makes this thread's connection everybody's."""
    connection = connections["default"]
    connection.inc_thread_sharing()
    SHARED[:] = [connection]
