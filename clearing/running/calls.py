"""Performs one operation's calls: status query, send, and what each answer is evidence of.

`next_action` decides; every call needs a permit of the guard, which says whether the counterparty
is to be called at all, and records its answer.
"""

from collections.abc import Callable
from dataclasses import replace
from time import CLOCK_BOOTTIME, clock_gettime
from typing import TypeVar

import structlog
from django.conf import settings

from base.db import DATABASE_UNAVAILABLE
from clearing.gateways import Blocked, ClaimEnded, Done, GatewayError, Gateways, KeyReused, Rejected, Retryable, StillPending, UnknownOutcome
from clearing.gateways.circuit_breaker import Guard
from clearing.policy.outcomes import UNKNOWN_KEY
from clearing.running.next_action import Answer, Call, Defer, Drop, Obstacle, Query, Record, Send, next_action
from clearing.status import Outcome
from clearing.store import claims
from clearing.store.claims import Evidence, Work

log = structlog.get_logger(__name__)
T = TypeVar("T")


def make_call(work: Work, gateways: Gateways, guard: Guard, stopping: Callable[[], bool] = lambda: False) -> Record | Defer | Drop:
    """Makes the calls that the operation needs now, until there is a result to record or a reason
    to make none.
    """
    calls: list[Call] = []
    obstacle: Obstacle | None = None
    while True:
        action = next_action(work, calls, key_retention_seconds=settings.KEY_RETENTION_SECONDS, stopping=stopping(), obstacle=obstacle)
        if isinstance(action, (Record, Defer, Drop)):
            return action
        try:
            calls.append(_perform(work, action, gateways, guard))
        except (Blocked, ClaimEnded) as error:
            obstacle = error
        except Exception:
            if calls and calls[-1].answer is not None:
                keep(work, calls[-1].evidence)
            raise


def _perform(work: Work, action: Query | Send, gateways: Gateways, guard: Guard) -> Call:
    match action:
        case Query():
            return query(work, gateways, guard)
        case Send(record=evidence, may_owe=may_owe):
            if evidence is not None:
                claims.record_attempt(work, evidence)
            return send(work, gateways, guard, may_owe=may_owe)


def keep(work: Work, evidence: Evidence) -> None:
    """Records an answer in spite of an internal error after it, so that nobody can say that the
    operation wasn't done if it was. Raises DATABASE_UNAVAILABLE.
    """
    try:
        claims.record_attempt(work, evidence)
    except DATABASE_UNAVAILABLE:
        raise
    except Exception:  # it may be the answer itself that can't be recorded
        log.exception("an answer couldn't be recorded", outcome=evidence.outcome, code=evidence.code, response=evidence.response)


def send(work: Work, gateways: Gateways, guard: Guard, *, may_owe: bool = False) -> Call:
    """Sends the stored bytes once. An error policy may make the outcome less certain. Raises
    Blocked or ClaimEnded.
    """
    sent_at = clock_gettime(CLOCK_BOOTTIME)
    answer = _permitted(work, guard, lambda: gateways.perform(work.stored, work.clock), may_owe=may_owe)
    evidence = _evidence(answer, sent_at, is_query=False)
    if isinstance(answer, (Retryable, Rejected, StillPending)):
        policy = guard.policies.of(work.stored.counterparty, answer.code)
        if policy.soften(evidence.outcome) == Outcome.UNKNOWN:
            return Call(replace(evidence, outcome=Outcome.UNKNOWN), _as_unknown(answer))
    return Call(evidence, answer)


def query(work: Work, gateways: Gateways, guard: Guard) -> Call:
    """Asks for the key. A query without a usable answer leaves the operation unknown, whatever the
    reason. Raises Blocked or ClaimEnded.
    """
    sent_at = clock_gettime(CLOCK_BOOTTIME)
    answer = _permitted(work, guard, lambda: gateways.query(work.stored, work.clock), is_query=True)
    if answer is None:
        return Call(Evidence(Outcome.RETRYABLE, sent_at, asked=True, code=UNKNOWN_KEY), None)
    if isinstance(answer, GatewayError) and not isinstance(answer, (Rejected, StillPending)):
        unanswered = _as_unknown(answer)
        unanswered.only_this_order = answer.only_this_order
        answer = unanswered
    return Call(_evidence(answer, sent_at, is_query=True), answer)


def _permitted(work: Work, guard: Guard, call: Callable[[], T], *, is_query: bool = False, may_owe: bool = False) -> T | GatewayError:
    """Makes the call under a permit, and records its answer there. Raises Blocked or ClaimEnded."""
    stored, user = work.stored, work.order.user_id
    with guard.admit(stored.counterparty, work.step, stored.key, user=user, is_query=is_query, may_owe=may_owe) as permit:
        answer: T | GatewayError
        try:
            answer = call()
        except ClaimEnded:
            raise
        except GatewayError as error:
            answer = error
        only_this_order = permit.record(answer)
    if only_this_order and isinstance(answer, GatewayError):
        answer.only_this_order = True
        if isinstance(answer, Retryable):
            answer.counted = True
    if isinstance(answer, Blocked):
        raise answer
    return answer


def _as_unknown(error: GatewayError) -> UnknownOutcome:
    return UnknownOutcome(error.code, error.detail, retry_after_ms=getattr(error, "retry_after_ms", None))


def _evidence(answer: Answer, sent_at: float, *, is_query: bool) -> Evidence:
    if isinstance(answer, Done):
        return Evidence(Outcome.DONE, sent_at, asked=is_query, response=answer.body)
    body = answer.body if isinstance(answer, Rejected) else None
    detail = answer.detail.replace("\0", "\ufffd")  # a text column takes no NUL
    return Evidence(outcome_of(answer), sent_at, asked=is_query, code=answer.code, detail=detail, response=body)


def outcome_of(error: GatewayError) -> Outcome:
    """What an error is evidence of. A reused key proves nothing about the operation, only that
    something is badly wrong.
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
