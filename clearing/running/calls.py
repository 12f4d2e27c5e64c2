"""One operation's call: ask first where something may have been sent, then send the stored bytes;
and what the answer is evidence of.

Every call passes the guard, which knows whether the counterparty is to be called at all, and is
told of each answer.
"""

from collections.abc import Callable
from dataclasses import replace
from time import CLOCK_BOOTTIME, clock_gettime, monotonic
from typing import TypeVar

from django.conf import settings

from clearing.gateways import Blocked, ClaimEnded, Done, GatewayError, Gateways, KeyReused, Rejected, Retryable, StillPending, UnknownOutcome
from clearing.gateways.circuit_breaker import Guard
from clearing.gateways.types import Result
from clearing.policy.outcomes import KEY_EXPIRED, UNKNOWN_KEY, Health
from clearing.status import OperationState, Outcome
from clearing.store import claims
from clearing.store.claims import Evidence, Work

Answer = Done[Result] | GatewayError
T = TypeVar("T")
WORKER_STOPPING = "worker_stopping"


class KeyExpired(GatewayError):  # noqa: N818 - named by the reaction, as all of these
    """The key may be older than the counterparty keeps keys, and it isn't known there: sending it
    again could do it twice (rule 7).
    """


class Held(GatewayError):  # noqa: N818 - named by the reaction, as all of these
    """The counterparty doesn't know the operation, and a hold was set meanwhile: it isn't sent."""


def make_call(work: Work, gateways: Gateways, guard: Guard, stopping: Callable[[], bool] = lambda: False) -> tuple[Evidence, Answer]:
    """The operation's call, or the question for its key. Raises ClaimEnded or Blocked: nothing was
    sent in this try.

    A first attempt that surely had no effect is made once more in place. One that is `stopping`
    makes no second call after its first.
    """
    if work.operation_state != OperationState.PLANNED:
        evidence, answer = ask(work, gateways, guard)
        if answer is not None:
            return evidence, answer
        if (work.sent_seconds_ago or 0) > settings.KEY_RETENTION_SECONDS:
            return replace(evidence, outcome=Outcome.UNKNOWN, code=KEY_EXPIRED), KeyExpired(KEY_EXPIRED)
        if work.hold_code:
            return replace(evidence, outcome=Outcome.UNKNOWN, code=work.hold_code), Held(work.hold_code)
        if stopping():
            return replace(evidence, outcome=Outcome.UNKNOWN, code=WORKER_STOPPING), UnknownOutcome(WORKER_STOPPING)
        claims.record_attempt(work, evidence)
    evidence, answer = send(work, gateways, guard, follows=work.operation_state != OperationState.PLANNED)
    may_pass = isinstance(answer, Retryable) and answer.counted and answer.retry_after_ms is None and answer.health != Health.FORBIDDING
    if may_pass and work.tries == 0 and not stopping():
        claims.record_attempt(work, evidence)
        return send(work, gateways, guard)
    return evidence, answer


def send(work: Work, gateways: Gateways, guard: Guard, *, follows: bool = False) -> tuple[Evidence, Answer]:
    """Sends the stored bytes once; `follows`: right after the question for them. A policy may make
    what comes less certain.
    """
    sent_at = clock_gettime(CLOCK_BOOTTIME)
    answer = _answer(work, guard, lambda: gateways.perform(work.stored, work.clock), follows=follows)
    evidence = _evidence(answer, sent_at, asked=False)
    if isinstance(answer, (Retryable, Rejected, StillPending)):
        policy = guard.policies.of(work.stored.counterparty, answer.code)
        if policy.soften(evidence.outcome) == Outcome.UNKNOWN:
            retry_after_ms = getattr(answer, "retry_after_ms", None)
            return replace(evidence, outcome=Outcome.UNKNOWN), UnknownOutcome(answer.code, answer.detail, retry_after_ms=retry_after_ms)
    return evidence, answer


def ask(work: Work, gateways: Gateways, guard: Guard) -> tuple[Evidence, Answer | None]:
    """Asks for the key. None: not known, as of now. A question without a usable answer leaves the
    operation unknown, whatever went wrong.
    """
    sent_at = clock_gettime(CLOCK_BOOTTIME)
    answer = _answer(work, guard, lambda: gateways.ask(work.stored, work.clock), asked=True)
    if answer is None:
        return Evidence(Outcome.RETRYABLE, sent_at, asked=True, code=UNKNOWN_KEY), None
    if isinstance(answer, GatewayError) and not isinstance(answer, (Rejected, StillPending)):
        unanswered = UnknownOutcome(answer.code, answer.detail, retry_after_ms=getattr(answer, "retry_after_ms", None))
        unanswered.only_this_order = answer.only_this_order
        answer = unanswered
    return _evidence(answer, sent_at, asked=True), answer


def _answer(work: Work, guard: Guard, call: Callable[[], T], *, asked: bool = False, follows: bool = False) -> T | GatewayError:
    """What came of a call that the guard lets through. Raises Blocked or ClaimEnded."""
    counterparty = work.stored.counterparty
    with guard.admitted(counterparty, work.step, follows=follows):
        made_at = monotonic()
        answer: T | GatewayError
        try:
            answer = call()
        except ClaimEnded:
            raise
        except GatewayError as error:
            answer = error
        only_this_order = guard.heard(counterparty, work.stored.key, answer, made_at, asked=asked)
        if only_this_order and isinstance(answer, GatewayError):
            answer.only_this_order = True
            if isinstance(answer, Retryable):
                answer.counted = True
    if isinstance(answer, Blocked):
        raise answer
    return answer


def _evidence(answer: Answer, sent_at: float, *, asked: bool) -> Evidence:
    if isinstance(answer, Done):
        return Evidence(Outcome.DONE, sent_at, asked=asked, response=answer.body)
    body = answer.body if isinstance(answer, Rejected) else None
    detail = answer.detail.replace("\0", "\ufffd")  # a text column takes no NUL
    return Evidence(outcome_of(answer), sent_at, asked=asked, code=answer.code, detail=detail, response=body)


def outcome_of(error: GatewayError) -> Outcome:
    """What an error is evidence of. A reused key is evidence of nothing but that something is badly
    wrong.
    """
    match error:
        case Retryable():
            return Outcome.RETRYABLE
        case Rejected():
            return Outcome.REJECTED
        case StillPending():
            return Outcome.PENDING
        case UnknownOutcome() | KeyReused():
            return Outcome.UNKNOWN
        case _:
            raise error
