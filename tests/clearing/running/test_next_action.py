"""What a worker does next, as a table: the operation's state and the calls so far, and the action
that follows.
"""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

import pytest

from clearing.flow.flows import OrderFacts
from clearing.gateways import (
    Action,
    Adjusted,
    Blocked,
    ClaimEnded,
    Counterparty,
    Done,
    GatewayError,
    Rejected,
    Retryable,
    StillPending,
    StoredRequest,
    UnknownOutcome,
)
from clearing.policy.outcomes import KEY_EXPIRED, Health
from clearing.running.next_action import WORKER_STOPPING, Answer, Call, Defer, Drop, Held, KeyExpired, Obstacle, Query, Record, Send, next_action
from clearing.status import OperationState, Outcome
from clearing.store.claim_clock import ClaimClock
from clearing.store.claims import Evidence, Work

RETENTION: Final = 100.0
PLANNED: Final = Work(
    clearing_id=1,
    epoch=1,
    step=1,
    part=1,
    operation_id=1,
    operation_state=OperationState.PLANNED,
    stored=StoredRequest(Counterparty.COUNTER, Action.ADJUST, "O:1", b"{}"),
    sent_seconds_ago=None,
    attempts=0,
    tries=0,
    clock=ClaimClock(0, 0.0, 1_000),
    order=OrderFacts("O", "U", "C", "OPEN", "BTC", Decimal("0.05"), Decimal(3000)),
    created_ms=0,
    started_ms=0,
    queued_ms=0,
    flow=1,
    worker="w",
)
UNKNOWN: Final = replace(PLANNED, operation_state=OperationState.UNKNOWN, sent_seconds_ago=5.0)
BUSY: Final = Blocked("counterparty_busy")
ENDED: Final = ClaimEnded()
QUERIED: Final = Evidence(Outcome.RETRYABLE, 0.0, 1.0, asked=True, code="unknown_key")
KEY_NOT_KNOWN: Final = Call(QUERIED, None)
FAILED_EVIDENCE: Final = Evidence(Outcome.RETRYABLE, 2.0, 3.0, code="connection_refused")
ANSWERED: Final = Evidence(Outcome.DONE, 4.0, 5.0)
DONE: Final = Done(b"{}", Adjusted("r", 1))
FAILURE: Final = Retryable("connection_refused")


def sent(answer: Answer, evidence: Evidence = ANSWERED) -> Call:
    return Call(evidence, answer)


def forbidden() -> Retryable:
    error = Retryable("forbidden", counted=True)
    error.health = Health.FORBIDDING
    return error


FAILED: Final = sent(FAILURE, FAILED_EVIDENCE)
GOOD: Final = sent(DONE)


@pytest.mark.parametrize(
    ("work", "calls", "action"),
    [
        pytest.param(PLANNED, [], Send(), id="what was never sent is sent"),
        pytest.param(replace(UNKNOWN, operation_state=OperationState.OPEN), [], Query(), id="open: queried before it is resent"),
        pytest.param(UNKNOWN, [], Query(), id="unknown: queried"),
        pytest.param(replace(UNKNOWN, operation_state=OperationState.PENDING), [], Query(), id="pending: queried"),
        pytest.param(UNKNOWN, [KEY_NOT_KNOWN], Send(record=QUERIED, may_owe=True), id="key not known: the query is recorded, then the bytes resent"),
        pytest.param(UNKNOWN, [GOOD], Record(ANSWERED, DONE), id="key known: recorded"),
        pytest.param(UNKNOWN, [KEY_NOT_KNOWN, GOOD], Record(ANSWERED, DONE), id="resent and done"),
        pytest.param(PLANNED, [GOOD], Record(ANSWERED, DONE), id="sent and done"),
        pytest.param(PLANNED, [FAILED], Send(), id="a first sure failure is repeated"),
        pytest.param(UNKNOWN, [KEY_NOT_KNOWN, FAILED], Send(), id="also after a query"),
        pytest.param(PLANNED, [FAILED, GOOD], Record(ANSWERED, DONE, earlier=FAILED_EVIDENCE), id="the repeat was done: both are recorded"),
        pytest.param(PLANNED, [FAILED, FAILED], Record(FAILED_EVIDENCE, FAILURE, earlier=FAILED_EVIDENCE), id="repeated once, no more"),
        pytest.param(UNKNOWN, [KEY_NOT_KNOWN, FAILED, GOOD], Record(ANSWERED, DONE, earlier=FAILED_EVIDENCE), id="queried, failed, done"),
        pytest.param(replace(PLANNED, tries=1), [FAILED], Record(FAILED_EVIDENCE, FAILURE), id="a later try is not repeated"),
    ],
)
def test_the_next_action(work: Work, calls: Sequence[Call], action: object) -> None:
    assert next_action(work, calls, key_retention_seconds=RETENTION) == action


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Retryable("signature_stale", counted=False), id="not the order's fault"),
        pytest.param(Retryable("too_many_requests", retry_after_ms=100), id="the counterparty wants to be called later"),
        pytest.param(forbidden(), id="this order is forbidden"),
        pytest.param(UnknownOutcome("timeout"), id="it may have been applied"),
        pytest.param(StillPending(), id="it is being worked on"),
        pytest.param(Rejected("insufficient_funds", b"{}"), id="finally refused"),
    ],
)
def test_only_a_sure_failure_that_may_pass_is_repeated(answer: GatewayError) -> None:
    assert next_action(PLANNED, [sent(answer)], key_retention_seconds=RETENTION) == Record(ANSWERED, answer)


@pytest.mark.parametrize(
    ("work", "calls", "obstacle", "action"),
    [
        pytest.param(PLANNED, [], BUSY, Defer(BUSY), id="blocked before anything was sent"),
        pytest.param(UNKNOWN, [], BUSY, Defer(BUSY), id="a query is blocked"),
        pytest.param(UNKNOWN, [KEY_NOT_KNOWN], BUSY, Defer(BUSY), id="sending is blocked after a query"),
        pytest.param(PLANNED, [FAILED], BUSY, Record(FAILED_EVIDENCE, FAILURE), id="the repeat is blocked: the failure counts"),
        pytest.param(UNKNOWN, [KEY_NOT_KNOWN, FAILED], BUSY, Record(FAILED_EVIDENCE, FAILURE), id="the same after a query"),
        pytest.param(PLANNED, [], ENDED, Drop(), id="the claim has ended"),
        pytest.param(UNKNOWN, [KEY_NOT_KNOWN], ENDED, Drop(), id="it ended after a query"),
        pytest.param(PLANNED, [FAILED], ENDED, Record(FAILED_EVIDENCE, FAILURE), id="it ended before the repeat: the evidence is kept"),
    ],
)
def test_an_action_that_sent_nothing(work: Work, calls: Sequence[Call], obstacle: Obstacle, action: object) -> None:
    assert next_action(work, calls, key_retention_seconds=RETENTION, obstacle=obstacle) == action


@pytest.mark.parametrize(
    ("work", "stopping", "refusal", "code"),
    [
        pytest.param(replace(UNKNOWN, sent_seconds_ago=RETENTION + 1), False, KeyExpired, KEY_EXPIRED, id="the key may have been forgotten"),
        pytest.param(replace(UNKNOWN, hold_code="contents_differ"), False, Held, "contents_differ", id="a hold was set"),
        pytest.param(UNKNOWN, True, UnknownOutcome, WORKER_STOPPING, id="the worker stops"),
        pytest.param(
            replace(UNKNOWN, sent_seconds_ago=RETENTION + 1, hold_code="contents_differ"), True, KeyExpired, KEY_EXPIRED, id="the key comes first"
        ),
    ],
)
def test_a_key_that_is_not_known_is_not_sent_again_when(work: Work, stopping: bool, refusal: type[GatewayError], code: str) -> None:
    action = next_action(work, [KEY_NOT_KNOWN], key_retention_seconds=RETENTION, stopping=stopping)

    assert isinstance(action, Record)
    assert isinstance(action.answer, GatewayError)
    assert (type(action.answer), action.answer.code) == (refusal, code)
    assert action.evidence == replace(QUERIED, outcome=Outcome.UNKNOWN, code=code)


def test_a_worker_that_stops_repeats_nothing() -> None:
    assert next_action(PLANNED, [FAILED], key_retention_seconds=RETENTION, stopping=True) == Record(FAILED_EVIDENCE, FAILURE)
    assert next_action(PLANNED, [], key_retention_seconds=RETENTION, stopping=True) == Send()
