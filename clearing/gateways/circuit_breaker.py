"""What this process knows of the counterparties: asked before each call, told of each answer,
without a round trip for either.

    closed ──5 failures in 10 s,──▶ open ──a probe is──▶ half open ──a call──▶ closed
             half of all calls,     ▲      answered      │           succeeds
             or 5 in a row          └────── it fails ────┘

The state is everybody's and lies in PostgreSQL (`clearing/gateways/counterparty_state.py`);
failures are counted here, since a counterparty that is down fails in every process. A refused
signature opens the breaker at once; a request that isn't allowed does when it happens to three
operations and no call goes well in between, otherwise it is that order's alone, and counts for it.
What is blocked costs the order nothing: it waits, and the sweep sends it on when the way is free.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from time import monotonic
from typing import Final

import structlog
from django.conf import settings
from django.db import DatabaseError, InterfaceError

from clearing.gateways import Blocked, GatewayError, counterparty_state
from clearing.gateways.counterparty_state import StateSnapshot
from clearing.policy.backoff import RETRY_AFTER_MS_MAX
from clearing.policy.error_policies import Policies
from clearing.policy.outcomes import Health
from clearing.status import Breaker

log = structlog.get_logger(__name__)
READ_SECONDS: Final = 0.5  # how long a process believes what it read
LEASE_SECONDS: Final = 0.1  # worth of calls that a process takes at once of a rate limit
LEASE_KEPT_SECONDS: Final = 1.0
FAILING_SHARE: Final = 0.5  # of the window's calls
FORBIDDEN_SECONDS: Final = 60.0  # how long one counts towards that: longer than an order's pause between two tries
FAILING_KEYS_MIN: Final = 3  # operations that failed: one order that a counterparty stumbles over is no outage
BUSY: Final = "counterparty_busy"
PAUSED: Final = "counterparty_paused"
DOWN: Final = "counterparty_down"
LIMITED: Final = "counterparty_limited"


@dataclass(slots=True)
class _Window:
    """The last calls to one counterparty: when each was made, and the key of one that failed."""

    calls: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=1000))
    since: float = float("-inf")  # calls made before this moment say nothing of the breaker's present state
    forbidden: dict[str, float] = field(default_factory=dict)  # operations that weren't allowed, and when, since the last call that went well
    failing_since: float = float("inf")  # when the first failure after the last good call was heard of

    def add(self, made_at: float, now: float, failed_key: str) -> bool:
        """Whether the breaker has to open."""
        if made_at < self.since:
            return False
        self.calls.append((now, failed_key))
        while self.calls and self.calls[0][0] < now - settings.BREAKER_WINDOW_SECONDS:
            self.calls.popleft()
        if not failed_key:
            self.failing_since = float("inf")
            return False
        still = made_at >= self.failing_since  # otherwise we may have stood still ourselves, and all calls in flight failed for that
        self.failing_since = min(self.failing_since, now)
        failures = [key for _, key in self.calls if key]
        return self._is_outage(failures, of=len(self.calls)) or (still and self._is_outage(self._latest_failures()))

    def forbid(self, key: str, now: float) -> bool:
        """Whether it isn't that operation alone any more: we have no rights there."""
        self.forbidden = {one: at for one, at in self.forbidden.items() if at > now - FORBIDDEN_SECONDS} | {key: now}
        return len(self.forbidden) >= FAILING_KEYS_MIN

    @staticmethod
    def _is_outage(failures: Sequence[str], of: int = 0) -> bool:
        """Whether so many failures, by their keys, among so many calls, are one."""
        enough = len(failures) >= settings.BREAKER_FAILURES_MIN and len(failures) >= FAILING_SHARE * of
        return enough and len(set(failures)) >= FAILING_KEYS_MIN

    def _latest_failures(self) -> list[str]:
        """Those after the last good call: one that went down under load has many good calls in the
        window yet.
        """
        return list(takewhile(bool, (key for _, key in reversed(self.calls))))

    def restart(self, now: float) -> None:
        self.calls.clear()
        self.since = now
        self.failing_since = float("inf")


@dataclass(slots=True)
class _Lease:
    left: int = 0  # below 0: owed
    until: float = float("-inf")
    none_before: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)


class Guard:
    """One process's. Safe in threads. `actor` stands in the changes that it makes."""

    def __init__(self, actor: Callable[[], str]) -> None:
        self.policies = Policies()
        self._actor = actor
        self._lock = threading.Lock()
        self._known = StateSnapshot()
        self._read_at = float("-inf")
        self._windows: dict[str, _Window] = {}
        self._trials: set[str] = set()
        self._leases: dict[str, _Lease] = {}
        self._busy_noted: dict[str, float] = {}

    @contextmanager
    def admitted(self, counterparty: str, step: int, *, follows: bool = False) -> Iterator[None]:
        """Around each call. Raises Blocked, at once: nobody waits here.

        One that `follows` a question that was admitted may owe its call of the rate limit: turned
        away, the order would ask again each time, and where there is one call at a time never come
        to send.
        """
        tries = self._admit(counterparty, step, follows=follows)
        try:
            yield
        finally:
            if tries:
                with self._lock:
                    self._trials.discard(counterparty)

    def _admit(self, counterparty: str, step: int, *, follows: bool) -> bool:
        """Whether the call is a trial. Raises Blocked."""
        known = self._refreshed()
        if known.is_paused(counterparty, step):
            raise Blocked(PAUSED)
        breaker = known.breaker(counterparty)
        if breaker == Breaker.OPEN:
            raise Blocked(PAUSED if counterparty in known.refusing else DOWN)
        if counterparty in known.quiet_ms:
            raise Blocked(LIMITED, retry_after_ms=int(known.quiet_ms[counterparty]))
        if breaker == Breaker.HALF_OPEN and not self._may_try(counterparty):
            raise Blocked(DOWN)
        try:
            self._spend(counterparty, follows=follows)
        except Blocked:
            self._trials.discard(counterparty)
            raise
        return breaker == Breaker.HALF_OPEN

    def _may_try(self, counterparty: str) -> bool:
        with self._lock:
            if counterparty in self._trials:
                return False
            self._trials.add(counterparty)
            return True

    def _refreshed(self) -> StateSnapshot:
        now = monotonic()
        if now - self._read_at > READ_SECONDS:
            self._read_at = now  # first, so that one thread asks and the others go on with what is known
            self._quietly(self._read)
        return self._known

    def _read(self) -> None:
        found, now = counterparty_state.read(), monotonic()
        with self._lock:
            for counterparty, changed_at in found.changed_at.items():
                if changed_at != self._known.changed_at.get(counterparty):
                    self._window(counterparty).restart(now)
            self._known = found

    def _window(self, counterparty: str) -> _Window:
        return self._windows.setdefault(counterparty, _Window())

    def _spend(self, counterparty: str, *, follows: bool) -> None:
        """One call of its rate limit. Raises Blocked; waits no longer for another thread's lease
        than for a slot.
        """
        rate = settings.COUNTERPARTY_RATES[counterparty]
        if not rate:
            return
        lease = self._leases.setdefault(counterparty, _Lease())
        if not lease.lock.acquire(timeout=settings.GATEWAY_SLOT_WAIT_MS / 1000):
            raise Blocked(LIMITED)
        try:
            self._spend_one(lease, counterparty, rate, follows=follows)
        finally:
            lease.lock.release()

    def _spend_one(self, lease: _Lease, counterparty: str, rate: float, *, follows: bool) -> None:
        now = monotonic()
        if now >= lease.until:
            lease.left = min(lease.left, 0)  # what is owed stays
        if lease.left <= 0 and now >= lease.none_before:
            self._quietly(lambda: self._lease(lease, counterparty, rate))
        if lease.left <= 0 and not follows:
            raise Blocked(LIMITED, retry_after_ms=max(int((lease.none_before - monotonic()) * 1000), 1))
        lease.left -= 1

    @staticmethod
    def _lease(lease: _Lease, counterparty: str, rate: float) -> None:
        granted, wait_ms = counterparty_state.lease_calls(counterparty, rate, max(int(rate * LEASE_SECONDS), 1))
        lease.left += granted
        lease.until = monotonic() + LEASE_KEPT_SECONDS
        lease.none_before = monotonic() + wait_ms / 1000

    def heard(self, counterparty: str, key: str, answer: object, made_at: float, *, asked: bool = False) -> bool:
        """Of each call that was admitted: what came of it, and when (monotonic) it was made. Never
        raises.

        Returns whether the counterparty doesn't allow this order what it allows others: that counts
        for the order. What was only `asked` well doesn't say that anybody may send.
        """
        if isinstance(answer, Blocked):
            self._found_it_full(counterparty)
            return False
        health = answer.health if isinstance(answer, GatewayError) else Health.WELL
        code = answer.code if isinstance(answer, GatewayError) else ""
        if health == Health.REFUSING:
            self._change(lambda: counterparty_state.open_breaker(counterparty, code, refuses=True, actor=self._actor()))
        elif health == Health.FORBIDDING:
            return self._is_alone(counterparty, key, code)
        elif health == Health.LIMITING:
            self._be_quiet(counterparty, getattr(answer, "retry_after_ms", None))
        else:
            self._count(counterparty, code, made_at, key if health == Health.FAILING else "")
            if health == Health.WELL and not asked:
                self._window(counterparty).forbidden = {}
        return False

    def _is_alone(self, counterparty: str, key: str, code: str) -> bool:
        known = self._known
        still = known.breaker(counterparty) == Breaker.HALF_OPEN and counterparty in known.refusing  # a trial: we are refused as before
        with self._lock:
            all_are = self._window(counterparty).forbid(key, monotonic()) or still
        if all_are:
            self._change(lambda: counterparty_state.open_breaker(counterparty, code, refuses=True, actor=self._actor()))
        return not all_are

    def _count(self, counterparty: str, code: str, made_at: float, failed_key: str) -> None:
        half_open = self._known.breaker(counterparty) == Breaker.HALF_OPEN
        with self._lock:
            window = self._window(counterparty)
            fresh = made_at >= window.since
            opens = window.add(made_at, monotonic(), failed_key) or (half_open and fresh and bool(failed_key))
        if opens:
            self._change(lambda: counterparty_state.open_breaker(counterparty, code, refuses=False, actor=self._actor()))
        elif half_open and fresh:
            self._change(lambda: counterparty_state.close(counterparty, actor=self._actor()))

    def _found_it_full(self, counterparty: str) -> None:
        now = monotonic()
        if now - self._busy_noted.get(counterparty, float("-inf")) > counterparty_state.BUSY_SECONDS / 2:
            self._busy_noted[counterparty] = now
            self._quietly(lambda: counterparty_state.note_busy(counterparty))

    def _be_quiet(self, counterparty: str, retry_after_ms: int | None) -> None:
        if retry_after_ms:
            self._change(lambda: counterparty_state.note_quiet(counterparty, min(retry_after_ms, RETRY_AFTER_MS_MAX)))

    def _change(self, change: Callable[[], object]) -> None:
        self._quietly(change)
        self._read_at = float("-inf")  # what changed is read before the next call

    @staticmethod
    def _quietly(act: Callable[[], object]) -> None:
        """A call and its evidence matter more than what it tells of the counterparty."""
        try:
            act()
        except (DatabaseError, InterfaceError) as error:
            log.warning("the counterparties' standing", error=str(error).strip(), fix="nothing: what was known goes on to hold")
