"""The guard of the counterparties: it permits each call and records each answer, without a round
trip for either.

    closed ──5 failures in 10 s,──▶ open ──a probe is──▶ half open ──a call──▶ closed
             half of all calls,     ▲      answered      │           succeeds
             or 5 in a row          └────── it fails ────┘

All processes share the state in PostgreSQL (`clearing/gateways/counterparty_state.py`). Each counts
failures by itself, since a counterparty that is down fails in every process. A blocked call costs
the order nothing: the order waits, and the sweep queues it when the counterparty may be called
again.

One order stops nobody else. A refused signature or a forbidden request (401, 403) counts against
its own order, and asks for a probe; the breaker opens when the probe is refused as well, or when
orders of three users in a row are refused and no call succeeds in between. A 429 makes its own
order wait; all wait when a second user meets one soon after, or where the problem says so.
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
READ_SECONDS: Final = 0.5  # how long a process uses what it read
LEASE_SECONDS: Final = 0.1  # worth of calls that a process takes at once of a rate limit
LEASE_KEPT_SECONDS: Final = 1.0
FAILING_SHARE: Final = 0.5  # of the window's calls
FORBIDDEN_SECONDS: Final = 60.0  # how long one counts towards that: longer than an order's pause between two tries
FORBIDDEN_USERS_MIN: Final = 3
LIMITED_SECONDS: Final = 10.0  # how long a user's 429 counts: a limit that is meant for all meets the next user sooner
LIMITED_USERS_MIN: Final = 2
DOUBT_SECONDS: Final = 10.0  # a process asks no more often for a probe
FAILING_KEYS_MIN: Final = 3  # operations that failed: a counterparty that fails for one order isn't down
BUSY: Final = "counterparty_busy"
PAUSED: Final = "counterparty_paused"
DOWN: Final = "counterparty_down"
LIMITED: Final = "counterparty_limited"
OVER_MINUTE: Final = "usdt_per_minute_exceeded"  # what clearing_bound_minute pauses the first step with


@dataclass(slots=True)
class _Window:
    """The last calls to one counterparty: when each was made, and the key of one that failed."""

    calls: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=1000))
    since: float = float("-inf")  # calls made before this moment say nothing of the breaker's present state
    forbidden: dict[str, float] = field(default_factory=dict)  # users that were refused, and when, since the last call that went well
    limited: dict[str, tuple[float, int]] = field(default_factory=dict)  # users that met a 429: when, and how long they were told to wait
    failing_since: float = float("inf")  # when the first failure after the last good call was recorded

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
        still = made_at >= self.failing_since  # otherwise this process may have been suspended, and all its calls in flight failed for that
        self.failing_since = min(self.failing_since, now)
        failures = [key for _, key in self.calls if key]
        return self._is_outage(failures, of=len(self.calls)) or (still and self._is_outage(self._latest_failures()))

    def forbid(self, user: str, now: float) -> bool:
        """Whether more than that user is refused by now: our signature or our rights are."""
        self.forbidden = {one: at for one, at in self.forbidden.items() if at > now - FORBIDDEN_SECONDS} | {user: now}
        return len(self.forbidden) >= FORBIDDEN_USERS_MIN

    def limit(self, user: str, wait_ms: int, now: float) -> int:
        """For how long all of us have to be quiet; 0 where that user alone was told to wait. Of
        several times the shortest: a longer one may be its user's own.
        """
        self.limited = {one: (at, ms) for one, (at, ms) in self.limited.items() if at > now - LIMITED_SECONDS} | {user: (now, wait_ms)}
        return min(ms for _, ms in self.limited.values()) if len(self.limited) >= LIMITED_USERS_MIN else 0

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
    """Tokens of a rate limit that this process has taken; below 0 it is in debt. Moments on the
    monotonic clock.
    """

    tokens: int = 0
    expires_at: float = float("-inf")
    none_before: float = float("-inf")  # the bucket grants no token before
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait_ms(self, now: float) -> int | None:
        """Until a token may be granted; None where that isn't known, since the bucket couldn't be
        asked.
        """
        return max(int((self.none_before - now) * 1000), 1) if self.none_before > now else None


class Guard:
    """Of one process; safe in threads. `actor` is written into the changes that it makes."""

    def __init__(self, actor: Callable[[], str]) -> None:
        self.policies = Policies()
        self._actor = actor
        self._lock = threading.Lock()
        self._known = StateSnapshot()
        self._read_at = float("-inf")
        self._was_read = False
        self._first_read = threading.Lock()
        self._windows: dict[str, _Window] = {}
        self._trials: set[str] = set()
        self._leases: dict[str, _Lease] = {}
        self._busy_noted: dict[str, float] = {}
        self._doubted: dict[str, float] = {}

    @contextmanager
    def admit(self, counterparty: str, step: int, key: str, *, user: str = "", is_query: bool = False, may_owe: bool = False) -> "Iterator[Permit]":
        """Around each call of an operation, by its `key`, for an order of `user`; without one the
        operation counts as a user of its own. Raises Blocked, at once: nobody waits here.

        A call that `may_owe` goes ahead though the rate limit is used up, and its token is paid
        back from those that are granted next.
        """
        is_trial = self._check(counterparty, step)
        try:
            self._spend(counterparty, may_owe=may_owe)
            yield Permit(self, counterparty, key, user or key, is_query=is_query)
        finally:
            if is_trial:
                with self._lock:
                    self._trials.discard(counterparty)

    def _check(self, counterparty: str, step: int) -> bool:
        """Whether the call is the trial of a half-open breaker, which is taken then. Raises
        Blocked.
        """
        known = self._refreshed()
        if known.is_paused(counterparty, step):
            raise Blocked(OVER_MINUTE if known.is_bounded(counterparty, step) else PAUSED)
        breaker = known.breaker(counterparty)
        if breaker == Breaker.OPEN:
            raise Blocked(PAUSED if counterparty in known.refusing else DOWN)
        if counterparty in known.quiet_ms:
            raise Blocked(LIMITED, retry_after_ms=int(known.quiet_ms[counterparty]))
        if breaker != Breaker.HALF_OPEN:
            return False
        with self._lock:
            if counterparty in self._trials:
                raise Blocked(DOWN)
            self._trials.add(counterparty)
        return True

    def _refreshed(self) -> StateSnapshot:
        now = monotonic()
        if not self._was_read:
            with self._first_read:  # nothing is known yet: the other threads wait for it, or they would ignore breakers and pauses
                if not self._was_read:
                    self._read_at = now
                    self._try_database(self._read)
        elif now - self._read_at > READ_SECONDS:
            self._read_at = now  # first, so that one thread reads and the others go on with what is known
            self._try_database(self._read)
        return self._known

    def _read(self) -> None:
        found, now = counterparty_state.read(), monotonic()
        with self._lock:
            for counterparty, changed_at in found.changed_at.items():
                if changed_at != self._known.changed_at.get(counterparty):
                    self._window(counterparty).restart(now)
            self._known = found
        self._was_read = True

    def _window(self, counterparty: str) -> _Window:
        return self._windows.setdefault(counterparty, _Window())

    def _spend(self, counterparty: str, *, may_owe: bool) -> None:
        """Takes one token of its rate limit. Raises Blocked; waits no longer for another thread's
        lease than for a slot.
        """
        rate = settings.COUNTERPARTY_RATES[counterparty]
        if not rate:
            return
        lease = self._leases.setdefault(counterparty, _Lease())
        if not lease.lock.acquire(timeout=settings.GATEWAY_SLOT_WAIT_MS / 1000):
            raise Blocked(LIMITED)
        try:
            self._spend_token(lease, counterparty, rate, may_owe=may_owe)
        finally:
            lease.lock.release()

    def _spend_token(self, lease: _Lease, counterparty: str, rate: float, *, may_owe: bool) -> None:
        now = monotonic()
        if now >= lease.expires_at:
            lease.tokens = min(lease.tokens, 0)  # a debt stays
        if lease.tokens <= 0 and now >= lease.none_before:
            self._try_database(lambda: self._lease(lease, counterparty, rate))
        if lease.tokens <= 0 and not may_owe:
            raise Blocked(LIMITED, retry_after_ms=lease.wait_ms(monotonic()))
        lease.tokens -= 1

    @staticmethod
    def _lease(lease: _Lease, counterparty: str, rate: float) -> None:
        granted, wait_ms = counterparty_state.lease_calls(counterparty, rate, max(int(rate * LEASE_SECONDS), 1))
        lease.tokens += granted
        lease.expires_at = monotonic() + LEASE_KEPT_SECONDS
        lease.none_before = monotonic() + wait_ms / 1000

    def record(self, counterparty: str, key: str, user: str, answer: object, made_at: float, *, is_query: bool) -> bool:
        """As `Permit.record`, which calls it; `made_at` (monotonic) is when the call was made."""
        if isinstance(answer, Blocked):
            self._note_busy(counterparty)
            return False
        health = answer.health if isinstance(answer, GatewayError) else Health.WELL
        code = answer.code if isinstance(answer, GatewayError) else ""
        if health == Health.FORBIDDING:
            return self._forbids_only_this_order(counterparty, user, code)
        if health in {Health.LIMITING, Health.LIMITING_ALL}:
            self._note_limited(counterparty, user, getattr(answer, "retry_after_ms", None), for_all=health == Health.LIMITING_ALL)
        else:
            self._count(counterparty, code, made_at, key if health == Health.FAILING else "")
            if health == Health.WELL and not is_query:
                self._window(counterparty).forbidden = {}
        return False

    def _forbids_only_this_order(self, counterparty: str, user: str, code: str) -> bool:
        known = self._known
        still_refused = known.breaker(counterparty) == Breaker.HALF_OPEN and counterparty in known.refusing  # in a trial after a pause
        with self._lock:
            forbids_all = self._window(counterparty).forbid(user, monotonic()) or still_refused
        if forbids_all:
            self._open(counterparty, code, refuses=True)
        else:
            self._note_doubt(counterparty)
        return not forbids_all

    def _count(self, counterparty: str, code: str, made_at: float, failed_key: str) -> None:
        half_open = self._known.breaker(counterparty) == Breaker.HALF_OPEN
        with self._lock:
            window = self._window(counterparty)
            fresh = made_at >= window.since
            opens = window.add(made_at, monotonic(), failed_key) or (half_open and fresh and bool(failed_key))
        if opens:
            self._open(counterparty, code, refuses=False)
        elif half_open and fresh:
            self._change(lambda: counterparty_state.close(counterparty, actor=self._actor()))

    def _open(self, counterparty: str, code: str, *, refuses: bool) -> None:
        self._change(lambda: counterparty_state.open_breaker(counterparty, code, refuses=refuses, actor=self._actor()))

    def _note_busy(self, counterparty: str) -> None:
        now = monotonic()
        if now - self._busy_noted.get(counterparty, float("-inf")) > counterparty_state.BUSY_SECONDS / 2:
            self._busy_noted[counterparty] = now
            self._try_database(lambda: counterparty_state.note_busy(counterparty))

    def _note_doubt(self, counterparty: str) -> None:
        now = monotonic()
        if now - self._doubted.get(counterparty, float("-inf")) > DOUBT_SECONDS:
            self._doubted[counterparty] = now
            self._try_database(lambda: counterparty_state.ask_for_probe(counterparty))

    def _note_limited(self, counterparty: str, user: str, retry_after_ms: int | None, *, for_all: bool) -> None:
        if not retry_after_ms:
            return
        with self._lock:
            shared_ms = self._window(counterparty).limit(user, retry_after_ms, monotonic())
        quiet_ms = retry_after_ms if for_all else shared_ms
        if quiet_ms:
            self._change(lambda: counterparty_state.note_quiet(counterparty, min(quiet_ms, RETRY_AFTER_MS_MAX)))

    def _change(self, change: Callable[[], object]) -> None:
        self._try_database(change)
        self._read_at = float("-inf")  # what changed is read before the next call

    @staticmethod
    def _try_database(act: Callable[[], object]) -> None:
        """Does without the database where it fails: a call and its evidence matter more than what
        it says of the counterparty.
        """
        try:
            act()
        except (DatabaseError, InterfaceError) as error:
            log.warning("counterparty state not updated", error=str(error).strip(), fix="nothing: what was last read stays in force")


class Permit:
    """The permission for one call, from `Guard.admit`: make the call, then record its answer, once.
    A call that ends in another exception than a GatewayError is not recorded.
    """

    __slots__ = ("_counterparty", "_guard", "_is_query", "_key", "_made_at", "_recorded", "_user")

    def __init__(self, guard: Guard, counterparty: str, key: str, user: str, *, is_query: bool) -> None:
        self._guard = guard
        self._counterparty = counterparty
        self._key = key
        self._user = user
        self._is_query = is_query
        self._made_at = monotonic()
        self._recorded = False

    def record(self, answer: object) -> bool:
        """Counts the answer for or against the counterparty, without raising where the database
        fails. Returns whether the counterparty refuses only this order's calls: that counts against
        the order.

        An answer to a query proves nothing about the right to send. Raises RuntimeError at the
        second call.
        """
        if self._recorded:
            raise RuntimeError(f"the answer for {self._key} was recorded before: ask the guard for another permit")
        self._recorded = True
        return self._guard.record(self._counterparty, self._key, self._user, answer, self._made_at, is_query=self._is_query)
