"""What both kinds of election have in common: one thread that talks to the server, and the rule for
how long a leader may act.

    candidate ──elected──▶ takes the next term ──▶ leading ──┬─ confirmed again and again
        ▲                                                    ├─ unconfirmed for half a session:
        │                                                    │  doesn't act
        └────────────────────────────────────────────────────┴─ another term, or its place gone

Times are CLOCK_BOOTTIME's, which counts through a suspended machine and which nobody sets.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Final

import structlog
from django.db import connection

from base import fence, metrics
from base.alarms import alarm
from base.db import drop_broken_connection
from ops.leadership import terms

log = structlog.get_logger(__name__)
Clock = Callable[[], float]

ACT_SHARE: Final = 0.5  # of a session since the last confirmation: the rest is for what the servers' clocks and our pauses make of it
CONFIRM_SHARE: Final = 0.125  # of a session between two confirmations
RETRY_ROUND_SECONDS: Final = 0.2  # between two tries while a server is away
RESIGN_SECONDS_MAX: Final = 2.0  # who stops waits no longer to be rid of its place; it goes with the session anyway
NO_LEADER_SECONDS: Final = 15.0
COMPLAIN_SECONDS: Final = 30.0


def boottime() -> float:
    """Seconds since the machine was started, suspended ones included."""
    return clock_gettime(CLOCK_BOOTTIME)


class Overtaken(Exception):  # noqa: N818 - named by what it tells
    """Another has taken the term: this round is over."""


class LeaderCandidate(ABC):
    """One process that is a candidate for leadership. Safe in threads, and `term` and `resign` in
    handlers of signals, which may interrupt either.
    """

    def __init__(self, name: str, *, seconds: float, clock: Clock = boottime, stall_seconds: float = float("inf")) -> None:
        """`seconds`: of a session. `stall_seconds`: who isn't `touch`ed for so long gives its place
        away: its process does nothing.
        """
        self.name = name
        self._seconds = seconds
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._touched_at = clock()
        self._term: int | None = None
        self._confirmed_at = float("-inf")
        self._given_up: set[int] = set()  # terms of ours that others ended
        self._aside_until = float("-inf")
        self._led_at = clock()  # when we last knew of a leader
        self._alarmed = False
        self._complaint, self._complained_at = "", float("-inf")
        self._resigning = False
        self._thread: threading.Thread | None = None
        self._wakes: SimpleQueue[None] = SimpleQueue()  # reentrant, unlike an Event: a signal's handler may put into it

    def campaign(self) -> None:
        """Campaigns for leadership from now on, and returns at once. Repeatable; again after
        `resign`, too.
        """
        if self._thread is not None and self._thread.is_alive():
            if self._resigning:
                raise RuntimeError(f"{self.name} is still handing over")
            return
        self._resigning = False
        self._wakes = SimpleQueue()
        self._led_at = self._touched_at = self._clock()
        self._thread = threading.Thread(target=self._run, name="leadership", daemon=True)
        self._thread.start()

    @property
    def is_leader(self) -> bool:
        """Whether we may act as the leader now."""
        return self.term is not None

    @property
    def term(self) -> int | None:
        """Our term while we may act, else None. What is done under it goes with it: to the fence of
        the write, at last.
        """
        term, age = self._term, self._clock() - self._confirmed_at
        return term if not self._resigning and 0 <= age < ACT_SHARE * self._seconds else None

    def resign(self) -> None:
        """Acts no more from this very moment, and hands over at once. Returns when that is done, or
        after RESIGN_SECONDS_MAX.
        """
        self._resigning = True
        self._wake()
        # One that `campaign` has made and not yet started, where the handler interrupts just there,
        # never will be.
        if self._thread is not None and self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(RESIGN_SECONDS_MAX)

    def touch(self) -> None:
        """The process goes on: its loop came round."""
        self._touched_at = self._clock()

    @abstractmethod
    def members(self) -> list[str]:
        """Names of the candidates, the leader or the next one first; none while we aren't
        connected. Raises an error of its server's.
        """

    @abstractmethod
    def _campaign_round(self) -> float:
        """One round as a candidate or as the leader. Returns the seconds until the next, unless it
        is woken.
        """

    @abstractmethod
    def _step_down(self) -> None:
        """Gives its place away, so that another is elected at once. Called in any state; may
        fail.
        """

    @abstractmethod
    def _close(self) -> None:
        """Frees what the thread holds."""

    def _run(self) -> None:
        while not self._resigning:
            self._wait(self._round())
        self._quietly(self._step_down)
        self._lead_no_more("it stops")
        self._quietly(self._close)
        connection.close()

    def _round(self) -> float:
        """Never raises: without this thread nobody here would ever lead again."""
        try:
            pause = self._withdraw() if self._stalled() or self._clock() < self._aside_until else self._campaign_round()
        except Overtaken:
            pause = 0.0
        except Exception as error:
            drop_broken_connection()
            self._complain(f"{type(error).__name__}: {error}".strip())
            pause = RETRY_ROUND_SECONDS
        metrics.IS_LEADER.set(self.is_leader)
        metrics.LEADER_TERM.set(self.term or 0)
        self._watch_for_a_leader()
        return pause

    def _complain(self, error: str) -> None:
        """Of one outage now and then, not five times a second."""
        now = self._clock()
        if error != self._complaint or now - self._complained_at > COMPLAIN_SECONDS:
            self._complaint, self._complained_at = error, now
            log.warning("leadership: server unavailable, retrying", error=error, fix="nothing: it is tried again")

    def _wait(self, seconds: float) -> None:
        try:
            self._wakes.get(timeout=max(seconds, 0.001))
            while True:
                self._wakes.get_nowait()
        except Empty:
            pass

    def _wake(self, *_: object) -> None:
        self._wakes.put(None)

    def _stalled(self) -> bool:
        return self._clock() - self._touched_at > self._stall_seconds

    def _withdraw(self) -> float:
        if self._term is not None:
            alarm("leader_stalled", "the leading process is stuck and hands over", name=self.name, term=self._term)
            self._lead_no_more("its process stood still")
        self._step_down()
        return RETRY_ROUND_SECONDS

    def _take_term(self, seen: fence.Current, asked_at: float, reason: str) -> None:
        """We are elected, as was confirmed by what we asked at that time: leader as soon as the
        next term is ours.
        """
        if seen.leader == self.name and seen.term not in self._given_up:
            term: int | None = seen.term  # the answer to our own commit was lost
        else:
            term = terms.take_next(seen, self.name, reason)
        if term is not None:
            self._confirmed_at = asked_at
            self._term = term
            self._see_leader()
            log.info("leading", name=self.name, term=term, reason=reason, previous=seen.leader)

    def _check_term(self, seen: fence.Current) -> None:
        """A leader whose term is over by the database leads no more, whoever else told it to go
        on.
        """
        if self._term is not None and seen.term != self._term:
            alarm("leadership_taken", "another took the term while we led", name=self.name, term=self._term, current=seen.term, leader=seen.leader)
            self._lead_no_more("another took the term")
            self._aside_until = self._clock() + self._seconds  # two that can't see each other would take it in turn, as fast as they can
            raise Overtaken

    def _confirm(self, asked_at: float) -> None:
        self._confirmed_at = max(self._confirmed_at, asked_at)
        if self._term is not None:
            self._see_leader()

    def _lead_no_more(self, why: str) -> None:
        term, self._term = self._term, None
        if term is not None:
            self._given_up = {term}
            metrics.IS_LEADER.set(0)
            metrics.LEADER_TERM.set(0)
            log.warning("no longer leading", name=self.name, term=term, why=why, fix="nothing: another takes over")

    def _see_leader(self) -> None:
        self._led_at = self._clock()
        self._alarmed = False

    def _watch_for_a_leader(self) -> None:
        silent = self._clock() - self._led_at
        if silent > NO_LEADER_SECONDS and not self._alarmed:
            self._alarmed = True
            alarm("no_leader", "nobody leads: no sweep, no gap pass", name=self.name, seconds=round(silent))

    def _quietly(self, act: Callable[[], None]) -> None:
        """At the end: what can't be freed goes with the process."""
        try:
            act()
        except Exception as error:
            log.info("leadership: not handed over, it goes with its session", error=f"{type(error).__name__}: {error}".strip())
