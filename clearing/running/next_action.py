"""What a worker does next for a claimed operation: a pure function of the claim and of the calls
made under it so far.

    planned, never sent ──────────────────────────────▶ Send ──▶ Record
                                                          │ a sure failure, at the first try
                                                          └───▶ Send ──▶ Record
    it may have been sent ──▶ Query ── key known ──▶ Record
                                └──── key not known ──▶ Send ──▶ Record
    a call that was blocked, nothing sent before it ──▶ Defer; its claim has ended ──▶ Drop

What may have been sent is reconciled before it is resent: a status query by the idempotency key
comes first, and the stored bytes are sent again only if the counterparty doesn't know the key
(design, rule 7). `clearing/running/calls.py` performs the actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clearing.gateways import Blocked, ClaimEnded, Done, GatewayError, Retryable, UnknownOutcome
from clearing.gateways.types import Result
from clearing.policy.outcomes import KEY_EXPIRED, Health
from clearing.status import OperationState, Outcome
from clearing.store.claims import Evidence, Work

Answer = Done[Result] | GatewayError
WORKER_STOPPING = "worker_stopping"


class KeyExpired(GatewayError):  # noqa: N818 - named by the reaction, as all of these
    """The counterparty doesn't know the key, but may have known it and forgotten it since: sending
    it again could do the operation twice (design, rule 7).
    """


class Held(GatewayError):  # noqa: N818 - named by the reaction, as all of these
    """The counterparty doesn't know the key, and a hold was set meanwhile: it isn't sent."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was made: what was answered, and what that is evidence of. A status query whose
    `answer` is None found that the counterparty doesn't know the key.
    """

    evidence: Evidence
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class Query:
    """Ask the counterparty for the key."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the stored bytes. `record`: evidence to write down before. `may_owe`: a rate limit that
    is used up doesn't block the call, which goes into debt.
    """

    record: Evidence | None = None
    may_owe: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Write down the result and make no further call. `earlier`: evidence of a call before, to be
    written down with it.
    """

    evidence: Evidence
    answer: Answer
    earlier: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Defer:
    """Nothing was tried that counts: the order waits until it isn't `blocked` any more."""

    blocked: Blocked


@dataclass(frozen=True, slots=True)
class Drop:
    """The claim has ended, and nothing was signed after it: the sweep takes the order back."""


Action = Query | Send | Record | Defer | Drop
Obstacle = Blocked | ClaimEnded


def next_action(
    work: Work, calls: Sequence[Call], *, key_retention_seconds: float, stopping: bool = False, obstacle: Obstacle | None = None
) -> Action:
    """What to do after these calls. `obstacle`: why the last action sent nothing. A worker that is
    `stopping` makes no second call.
    """
    if calls and calls[-1].answer is not None:
        return _after_answer(work, calls, calls[-1].answer, may_repeat=obstacle is None and not stopping)
    if isinstance(obstacle, ClaimEnded):
        return Drop()
    if obstacle is not None:
        return Defer(obstacle)
    if calls:
        return _after_unknown_key(work, calls[-1].evidence, key_retention_seconds, stopping=stopping)
    return Send() if work.operation_state == OperationState.PLANNED else Query()


def _after_answer(work: Work, calls: Sequence[Call], answer: Answer, *, may_repeat: bool) -> Action:
    """A first try that surely had no effect is repeated at once, and only once. It counts also
    where its repeat meets an obstacle: otherwise an order could fail for ever and never park.
    """
    earlier = calls[-2].evidence if len(calls) > 1 and calls[-2].answer is not None else None
    if earlier is None and may_repeat and work.tries == 0 and _may_pass(answer):
        return Send()
    return Record(calls[-1].evidence, answer, earlier)


def _after_unknown_key(work: Work, evidence: Evidence, key_retention_seconds: float, *, stopping: bool) -> Action:
    """The call after a query may run into token debt at the rate limit: blocked, the order would
    query again each time, and where one call at a time is allowed never come to send.
    """
    if (work.sent_seconds_ago or 0) > key_retention_seconds:
        return _not_sent(evidence, KeyExpired, code=KEY_EXPIRED)
    if work.hold_code:
        return _not_sent(evidence, Held, code=work.hold_code)
    if stopping:
        return _not_sent(evidence, UnknownOutcome, code=WORKER_STOPPING)
    return Send(record=evidence, may_owe=True)


def _not_sent(evidence: Evidence, reason: type[GatewayError], *, code: str) -> Record:
    return Record(replace(evidence, outcome=Outcome.UNKNOWN, code=code), reason(code))


def _may_pass(answer: Answer) -> bool:
    """Whether the call surely had no effect, and the next one may go better at once."""
    return isinstance(answer, Retryable) and answer.counted and answer.retry_after_ms is None and answer.health != Health.FORBIDDING
