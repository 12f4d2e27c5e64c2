"""The counterparties over HTTP: what is sent, and how an answer becomes what it is evidence of
(docs/contracts/, design rule 7).

Which answer is evidence of what stands in `clearing/policy/outcomes.py`. Here is what HTTP adds: a
stale signature is made anew, once, in place; and where libcurl may have sent twice, what would say
that nothing was applied says so of the second sending alone, and is unknown.
"""

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, Generic, Literal, Protocol, TypeVar
from urllib.parse import quote

from django.conf import settings

from base.http import AnswerLost, HttpAnswer, NotSent, SignedClient
from clearing.gateways.answers import (
    DoneStatus,
    InProgressStatus,
    Problem,
    read_accepted,
    read_adjusted,
    read_exchanged,
    read_problem,
    read_problem_body,
    read_status,
    read_transferred,
)
from clearing.gateways.errors import Blocked, GatewayError, KeyReused, Rejected, Retryable, StillPending, UnknownOutcome
from clearing.gateways.ports import Gateways
from clearing.gateways.types import Adjusted, Counterparty, Done, Exchanged, Reader, SigningClock, StoredRequest, Transferred
from clearing.policy.outcomes import LOST, STALE, UNKNOWN_KEY, UNSENT, Health, Rule, rule_of
from clearing.status import Outcome

R = TypeVar("R")
SCOPE_ALL: Final = "all"  # of a 429: it is meant for every call, not for this order's user alone


class Client(Protocol):
    """What a gateway needs of `base.http.SignedClient`; the fake brings its own."""

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        deadline_ms: int,
        timestamp_ms: int,
    ) -> HttpAnswer: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of the calls to one counterparty from this process.

    `deadline_ms` is total for a call. `calls_max` are in flight at once, so that one slow
    counterparty can't hold every thread; who finds no slot within `slot_wait_ms` gives up. Raises
    ValueError for limits that would let no call through.
    """

    deadline_ms: int
    calls_max: int
    slot_wait_ms: int

    def __post_init__(self) -> None:
        if self.deadline_ms < 1 or self.calls_max < 1 or self.slot_wait_ms < 0:
            raise ValueError(f"no call could be made under {self}: set GATEWAY_DEADLINE_MS and GATEWAY_CALLS_MAX to at least 1")


class _HttpGateway(Generic[R]):
    path: str
    read: Reader[R]

    def __init__(self, client: Client, limits: Limits) -> None:
        self._client = client
        self._limits = limits
        self._slots = threading.BoundedSemaphore(limits.calls_max)

    def perform(self, stored: StoredRequest, clock: SigningClock) -> Done[R]:
        """Sends the stored bytes once; a stale signature is made anew. Raises a GatewayError."""
        headers = {"Idempotency-Key": stored.key}
        try:
            answer = self._signed(clock, "POST", self.path, stored.body, headers)
        except NotSent as error:
            raise _error(rule_of(UNSENT, error.code), error.code, error.detail) from error
        except AnswerLost as error:
            raise _error(rule_of(LOST, error.code), error.code, error.detail) from error
        if answer.status == HTTPStatus.OK:
            return Done(answer.body, self.read(stored, answer.body))
        raise error_of(stored, answer)

    def status(self, stored: StoredRequest, clock: SigningClock) -> Done[R] | None:
        """Queries the status of the key. None: not known, as of now. Raises Rejected, StillPending,
        UnknownOutcome, Blocked or ClaimEnded.
        """
        try:
            answer = self._signed(clock, "GET", f"/v1/operations/{quote(stored.key, safe=':')}")
        except (NotSent, AnswerLost) as error:
            raise _unanswered(error.code, error.detail, Health.FAILING) from error
        except Blocked:
            raise
        except Retryable as error:
            raise _unanswered(error.code, error.detail, error.health) from error
        if answer.status == HTTPStatus.OK:
            return self._stated(stored, answer.body)
        refusal = error_of(stored, answer)
        if answer.status == HTTPStatus.NOT_FOUND and refusal.code == UNKNOWN_KEY:
            return None
        raise _unanswered(refusal.code, refusal.detail, refusal.health, retry_after_ms=_wait_ms(answer))

    def _signed(
        self,
        clock: SigningClock,
        method: Literal["GET", "POST"],
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """One call under one deadline. The time is taken, and with it the claim checked, once there
        is a slot, right before signing.
        """

        def send(deadline_ms: int) -> HttpAnswer:
            return self._client.request(method, path, body=body, headers=headers, deadline_ms=deadline_ms, timestamp_ms=clock.timestamp_ms())

        with self._slot():
            started = time.monotonic()
            answer = send(self._limits.deadline_ms)
            if not is_stale(answer):
                return answer
            left_ms = self._limits.deadline_ms - int((time.monotonic() - started) * 1000)
            if left_ms >= 1 and not answer.sent_twice:
                return send(left_ms)
        # no fresh signature was refused: the worker may have been suspended, for example
        raise UnknownOutcome(STALE) if answer.sent_twice else Retryable(STALE, counted=False)

    @contextmanager
    def _slot(self) -> Generator[None]:
        if not self._slots.acquire(timeout=self._limits.slot_wait_ms / 1000):
            raise Blocked("counterparty_busy")
        try:
            yield
        finally:
            self._slots.release()

    def _stated(self, stored: StoredRequest, body: bytes) -> Done[R]:
        status = read_status(stored, body)
        if isinstance(status, DoneStatus):
            result = bytes(status.result)
            return Done(result, self.read(stored, result))
        if isinstance(status, InProgressStatus):
            raise StillPending(status.retry_after_ms)
        raise Rejected(read_problem_body(status.status, bytes(status.problem)).code, bytes(status.problem))


class HttpCounter(_HttpGateway[Adjusted]):
    path = "/v1/adjustments"
    read = staticmethod(read_adjusted)
    adjust = _HttpGateway.perform


class HttpFund(_HttpGateway[Transferred]):
    path = "/v1/transfers"
    read = staticmethod(read_transferred)
    transfer = _HttpGateway.perform


class HttpTrading(_HttpGateway[Exchanged]):
    path = "/v1/exchanges"
    read = staticmethod(read_exchanged)
    exchange = _HttpGateway.perform


def error_of(stored: StoredRequest, answer: HttpAnswer) -> GatewayError:
    """What an answer other than 200 is evidence of. When in doubt, an UnknownOutcome."""
    try:
        if answer.status == HTTPStatus.ACCEPTED:
            return StillPending(read_accepted(stored, answer.body).retry_after_ms)
        if HTTPStatus.BAD_REQUEST <= answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return _refusal(answer, read_problem(answer))
    except UnknownOutcome as unreadable:
        return UnknownOutcome(unreadable.code, f"{answer.status} {unreadable.detail}", retry_after_ms=_wait_ms(answer))
    code = f"status_{answer.status}"
    return _error(rule_of(answer.status, code), code, repr(answer.body[:200]), retry_after_ms=_wait_ms(answer))


def _refusal(answer: HttpAnswer, problem: Problem) -> GatewayError:
    rule = rule_of(answer.status, problem.code)
    if answer.sent_twice and rule.outcome == Outcome.RETRYABLE:
        rule = replace(rule, outcome=Outcome.UNKNOWN)  # the first sending may have been applied
    if rule.health == Health.LIMITING and problem.scope == SCOPE_ALL:
        rule = replace(rule, health=Health.LIMITING_ALL)
    return _error(rule, problem.code, problem.detail, retry_after_ms=_wait_ms(answer), body=answer.body)


def _error(rule: Rule, code: str, detail: str, *, retry_after_ms: int | None = None, body: bytes = b"") -> GatewayError:
    """The error that the table's rule demands."""
    error: GatewayError
    match rule.outcome:
        case Outcome.RETRYABLE:
            error = Retryable(code, detail, retry_after_ms=retry_after_ms, counted=rule.counted)
        case Outcome.REJECTED:
            error = Rejected(code, body)
        case Outcome.PENDING:
            error = StillPending(retry_after_ms)
        case _:
            error = KeyReused(detail) if rule.parks else UnknownOutcome(code, detail, retry_after_ms=retry_after_ms)
    error.health = rule.health
    return error


def _unanswered(code: str, detail: str, health: Health, *, retry_after_ms: int | None = None) -> UnknownOutcome:
    """A query without a usable answer says nothing about the operation, but something about the
    counterparty.
    """
    error = UnknownOutcome(code, detail, retry_after_ms=retry_after_ms)
    error.health = health
    return error


def is_stale(answer: HttpAnswer) -> bool:
    """Whether the answer refuses the signature's time."""
    try:
        return answer.status == HTTPStatus.UNAUTHORIZED and read_problem(answer).code == STALE
    except UnknownOutcome:
        return False


def _wait_ms(answer: HttpAnswer) -> int | None:
    return None if answer.retry_after_s is None else answer.retry_after_s * 1000


def over(client_of: Callable[[Counterparty], Client], limits: Limits) -> Gateways:
    """The three gateways over their clients, each with slots of its own."""
    return Gateways(
        counter=HttpCounter(client_of(Counterparty.COUNTER), limits),
        fund=HttpFund(client_of(Counterparty.FUND), limits),
        trading=HttpTrading(client_of(Counterparty.TRADING), limits),
    )


def from_settings() -> Gateways:
    """The gateways to the counterparties that the settings name."""
    limits = Limits(
        deadline_ms=settings.GATEWAY_DEADLINE_MS,
        calls_max=settings.GATEWAY_CALLS_MAX,
        slot_wait_ms=settings.GATEWAY_SLOT_WAIT_MS,
    )
    return over(lambda name: SignedClient(settings.COUNTERPARTY_URLS[name], settings.COUNTERPARTY_KEYS[name]), limits)
