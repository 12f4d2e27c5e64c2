"""The counterparties over HTTP: what is sent, and what each answer is evidence of (docs/contracts/, design rule 7).

================================================  ==============================================================
what came                                         what it is
================================================  ==============================================================
no connection                                     Retryable
timeout, broken connection, any 5xx, a status     UnknownOutcome
or a body that the contract doesn't have
200, 202                                          Done, StillPending
400, 404, 410 with a code that the contract       Rejected; with any other code UnknownOutcome: the question for
calls final                                       the key tells whether it was kept under it
401 signature_stale                               surely not applied: signed anew, once, in place; then Retryable
401, 403, 429                                     Retryable, no attempt counted; UnknownOutcome where libcurl may have
                                                  sent twice, since the first sending may have been applied
409 in_progress, 422 key_reused                   StillPending, KeyReused
================================================  ==============================================================
"""

import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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
from clearing.gateways.errors import GatewayError, KeyReused, Rejected, Retryable, StillPending, UnknownOutcome
from clearing.gateways.ports import Gateways
from clearing.gateways.types import Adjusted, Counterparty, Done, Exchanged, Reader, SigningClock, StoredRequest, Transferred

FINAL_CODES: Final[dict[int, frozenset[str]]] = {
    400: frozenset({"invalid_request", "insufficient_funds", "order_unknown", "amount_invalid", "below_min_lot"}),
    404: frozenset({"account_unknown"}),
    410: frozenset({"contract_closed"}),
}
STALE: Final = "signature_stale"
UNKNOWN_KEY: Final = "unknown_key"
R = TypeVar("R")


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

    `deadline_ms` is total for a call. `calls_max` are in flight at once, so that one slow counterparty can't hold every thread; who finds
    no slot within `slot_wait_ms` gives up. Raises ValueError for limits that would let no call through.
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
            raise Retryable(error.code, error.detail) from error
        except AnswerLost as error:
            raise UnknownOutcome(error.code, error.detail) from error
        if answer.status == HTTPStatus.OK:
            return Done(answer.body, self.read(stored, answer.body))
        raise error_of(stored, answer)

    def status(self, stored: StoredRequest, clock: SigningClock) -> Done[R] | None:
        """Asks for the key. None: not known, as of now. Raises Rejected, StillPending, UnknownOutcome or ClaimEnded."""
        try:
            answer = self._signed(clock, "GET", f"/v1/operations/{quote(stored.key, safe='')}")
        except (NotSent, AnswerLost, Retryable) as error:
            raise UnknownOutcome(error.code, error.detail) from error
        if answer.status == HTTPStatus.OK:
            return self._stated(stored, answer.body)
        refusal = error_of(stored, answer)
        if answer.status == HTTPStatus.NOT_FOUND and refusal.code == UNKNOWN_KEY:
            return None
        # whatever became of the question says nothing about the operation
        raise UnknownOutcome(refusal.code, refusal.detail, retry_after_ms=_wait_ms(answer))

    def _signed(
        self,
        clock: SigningClock,
        method: Literal["GET", "POST"],
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> HttpAnswer:
        """One call under one deadline. The time is taken, and with it the claim checked, once there is a slot, right before signing."""

        def send(deadline_ms: int) -> HttpAnswer:
            return self._client.request(method, path, body=body, headers=headers, deadline_ms=deadline_ms, timestamp_ms=clock.timestamp_ms())

        with self._slot():
            started = time.monotonic()
            answer = send(self._limits.deadline_ms)
            left_ms = self._limits.deadline_ms - int((time.monotonic() - started) * 1000)
            return send(left_ms) if left_ms >= 1 and is_stale(answer) and not answer.sent_twice else answer

    @contextmanager
    def _slot(self) -> Generator[None]:
        if not self._slots.acquire(timeout=self._limits.slot_wait_ms / 1000):
            raise Retryable("counterparty_busy", counted=False)
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
    return UnknownOutcome(f"status_{answer.status}", repr(answer.body[:200]), retry_after_ms=_wait_ms(answer))


def _refusal(answer: HttpAnswer, problem: Problem) -> GatewayError:
    match answer.status, problem.code:
        case ((401 | 403 | 429), _):
            return _turned_away(answer, problem)
        case 409, "in_progress":
            return StillPending(_wait_ms(answer))
        case 422, "key_reused":
            return KeyReused(problem.detail)
        case status, code if code in FINAL_CODES.get(status, ()):
            return Rejected(code, answer.body)
        case _, code:
            return UnknownOutcome(code, problem.detail, retry_after_ms=_wait_ms(answer))


def _turned_away(answer: HttpAnswer, problem: Problem) -> GatewayError:
    if answer.sent_twice:
        return UnknownOutcome(problem.code, problem.detail, retry_after_ms=_wait_ms(answer))
    return Retryable(problem.code, problem.detail, retry_after_ms=_wait_ms(answer), counted=False)


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
