"""Runs the steps of one clearing: claim, call, record, and on to the next step in place.

The sequence keeps an order whole wherever the process dies: the operation with its bytes is in the
database before the call; the result, the history and the next operation are one commit; only then
comes the next call, or the publish.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import CLOCK_BOOTTIME, clock_gettime

import structlog
from django.conf import settings

from base import metrics
from base.alarms import alarm
from base.db import DATABASE_UNAVAILABLE
from clearing.dispatch import publish
from clearing.dispatch.queues import RESUME_QUEUE
from clearing.flow.fills import Residue
from clearing.flow.flows import Finished, Parks, Planned, after
from clearing.gateways import (
    Blocked,
    Done,
    Exchanged,
    GatewayError,
    Gateways,
    KeyReused,
    Rejected,
    Retryable,
    StillPending,
    UnknownOutcome,
)
from clearing.gateways.circuit_breaker import Guard
from clearing.policy.backoff import Reaction, deferral, react
from clearing.policy.error_policies import Policy
from clearing.policy.outcomes import Health
from clearing.running.calls import keep, make_call, outcome_of
from clearing.running.in_process import InFlight
from clearing.running.next_action import Defer, Drop, Held, KeyExpired, Record
from clearing.running.real_order import NOT_AUTHENTIC, doubt
from clearing.running.stored_request import REQUEST_DIFFERS, differs
from clearing.status import OperationState, Outcome, State
from clearing.store import claims, interventions
from clearing.store.claims import Claimed, ClearingRef, Evidence, Recorded, Work

log = structlog.get_logger(__name__)
INTERNAL_ERROR = "internal_error"
FLOW_UNKNOWN = "flow_unknown"
FORBIDDEN_ATTEMPTS_MAX = 10
FORBIDDEN_SECONDS_MIN = 600.0  # since its first try: time enough for operators to allow it


def _nothing(_step: int) -> None:
    """The default of `on_step`: no listener."""


def _never(_name: str) -> bool:
    """The default of `outlived`: a worker that keeps one name as long as it runs."""
    return False


@dataclass(frozen=True, slots=True)
class Runner:
    """A worker, as running a clearing needs it.

    `worker` names its incarnation, asked at every claim, and `outlived` says whether that one has
    ended and the worker goes on as another; `stopping` ends continuing; `on_step` is told of each
    step that the first clearing takes in place; `isolated` marks the one-slot worker that runs
    poison candidates, and nothing else in place; `in_flight` is what its process is at.
    """

    worker: Callable[[], str]
    gateways: Gateways
    stopping: Callable[[], bool]
    guard: Guard
    isolated: bool = False
    on_step: Callable[[int], None] = _nothing
    in_flight: InFlight = field(default_factory=InFlight)
    outlived: Callable[[str], bool] = _never

    def run(self, clearing_id: int, epoch: int) -> None:
        """Runs a queued clearing from its own step on, as far as it goes, and then its user's next
        ones (up to a number).
        """
        following = self._run_clearing(clearing_id, epoch, self.on_step)
        for _ in range(settings.CLEARING_NEXT_IN_PLACE_MAX - 1):
            if following is None or not self._continues():
                break
            following = self._run_clearing(following.id, following.epoch, _nothing)
        if following is not None:
            publish.publish([following], queue=RESUME_QUEUE if self.stopping() else None)

    def _continues(self) -> bool:
        return bool(settings.CLEARING_RUN_STEPS_INLINE) and not self.stopping() and not self.isolated

    def _run_clearing(self, clearing_id: int, epoch: int, on_step: Callable[[int], None]) -> ClearingRef | None:
        """Claims and runs one clearing, unless another thread runs it. Returns its user's next
        order, once this one has left the lane.
        """
        with self.in_flight.claim(clearing_id, epoch) as is_first:
            work = self._claim(clearing_id, epoch, is_first)
            return None if work is None else self._run_claimed(work, on_step)

    def _claim(self, clearing_id: int, epoch: int, is_first: bool) -> Work | None:
        try:
            work = self._claimed(clearing_id, epoch) if is_first else None
        except claims.FlowUnknown as newer:  # a worker of that release will get it
            _defer(newer.claimed, Blocked(FLOW_UNKNOWN))
            return None
        if work is None:
            metrics.CLAIMS_LOST.labels("at_claim").inc()
        else:
            metrics.observe_claim(work)
        return work

    def _claimed(self, clearing_id: int, epoch: int) -> Work | None:
        return claims.claim(clearing_id, epoch, worker=self.worker, gives_up=self.stopping, isolated=self.isolated, sole=True, outlived=self.outlived)

    def _run_claimed(self, work: Work, on_step: Callable[[int], None]) -> ClearingRef | None:
        while True:
            recorded = self._run_operation(work)
            if recorded.ref is not None:
                publish.publish([recorded.ref], queue=RESUME_QUEUE if self.stopping() else None)
            if recorded.work is None:
                return recorded.next
            work = recorded.work
            on_step(work.step)

    def _run_operation(self, work: Work) -> Recorded:
        """One operation, to its record in the database."""
        with structlog.contextvars.bound_contextvars(order_id=work.order.order_id, step=work.step, epoch=work.epoch):
            try:
                recorded = self._called(work)
            except DATABASE_UNAVAILABLE:
                raise
            except Exception:  # whatever it is: it must not run for ever
                log.exception("internal error while running a step")
                recorded = _park_internal_error(work)
            if recorded.outcome == "lost":
                metrics.CLAIMS_LOST.labels("at_record").inc()
                log.warning("claim lost before the result was recorded", fix="nothing: the evidence is kept")
            return recorded

    def _called(self, work: Work) -> Recorded:
        if work.operation_state == OperationState.DONE:
            return _finish_confirmed(work)
        if differs(work):
            return _park_unsigned(work, REQUEST_DIFFERS, "a stored request is not what its order asks for: nothing was sent", key=work.stored.key)
        if why := doubt(work):
            return _park_unsigned(work, NOT_AUTHENTIC, "nobody can show that the counter wrote this order: nothing was sent", why=why)
        match make_call(work, self.gateways, self.guard, self.stopping):
            case Drop():
                log.warning("claim ended before the call", fix="nothing: the sweep takes the order back")
                return Recorded("dropped")
            case Defer(blocked):
                return _defer(work, blocked)
            case Record() as result:
                return self._record(work, result)

    def _record(self, work: Work, result: Record) -> Recorded:
        evidence, answer = result.evidence, result.answer
        try:
            if result.earlier is not None:
                claims.record_attempt(work, result.earlier)
            return self._advance(work, evidence, answer) if isinstance(answer, Done) else self._settle(work, evidence, answer)
        except DATABASE_UNAVAILABLE:
            raise
        except Exception:
            keep(work, evidence)
            raise

    def _settle(self, work: Work, evidence: Evidence, error: GatewayError) -> Recorded:
        counted = isinstance(error, Retryable) and error.counted
        policy = self.guard.policies.of(work.stored.counterparty, evidence.code)
        reaction = _reaction(work, error, policy, counted=counted, asked=evidence.asked)
        recorded = claims.settle(work, evidence, reaction, counted=counted, generation=publish.generation())
        if isinstance(error, KeyReused):
            alarm(error.code, "a counterparty knows our key with other bytes than ours", key=work.stored.key, detail=error.detail)
        log.info("attempt not done", outcome=evidence.outcome, code=evidence.code, state=recorded.outcome)
        return _parked(work, recorded, evidence.code)

    def _advance(self, work: Work, evidence: Evidence, done: Done[object]) -> Recorded:
        exchanges = (*work.exchanges, done.result) if isinstance(done.result, Exchanged) else work.exchanges
        match after(work.flow, work.order, work.step, exchanges, part=work.part):
            case Finished(residue):
                return _cleared(work, claims.finish(work, evidence, residue, generation=publish.generation()), residue)
            case Parks(code):
                reaction = Reaction(State.PARKED, OperationState.DONE)
                evidence = replace(evidence, code=code)
                recorded = claims.settle(work, evidence, reaction, counted=False, generation=publish.generation())
                return _parked(work, recorded, code)
            case Planned() as following:
                generation = publish.generation()
                recorded = claims.step_done(work, evidence, following, exchanges=exchanges, in_place=self._continues(), generation=generation)
                return _parked(work, recorded, following.parks or "held")


def _park_internal_error(work: Work) -> Recorded:
    """Parks the order, so that an internal error doesn't repeat for ever. Its operation is unknown
    then, and reconciled before it is resent, unless operators have confirmed it.
    """
    if work.operation_state == OperationState.DONE:
        return _parked(work, interventions.park_confirmed(work, INTERNAL_ERROR, generation=publish.generation()), INTERNAL_ERROR)
    evidence = Evidence(Outcome.UNKNOWN, clock_gettime(CLOCK_BOOTTIME), code=INTERNAL_ERROR, detail="see the worker's log")
    reaction = Reaction(State.PARKED, OperationState.UNKNOWN)
    return _parked(work, claims.settle(work, evidence, reaction, counted=False, generation=publish.generation()), INTERNAL_ERROR)


def _park_unsigned(work: Work, code: str, message: str, **context: str) -> Recorded:
    """The stored operation isn't its order's, or the order not the counter's, so that nothing is
    signed. Whether something was sent before is not known: as *unknown* the operation can be
    confirmed by operators, and sent anew.
    """
    alarm(code, message, order_id=work.order.order_id, **context)
    reaction = Reaction(State.PARKED, OperationState.UNKNOWN)
    return _parked(work, claims.defer_blocked(work, code, reaction, generation=publish.generation()), code)


def _finish_confirmed(work: Work) -> Recorded:
    """Operators confirmed the last step, and the order's turn has come: it is cleared without a
    call. After another step the next operation was written down at the confirmation.
    """
    finished = after(work.flow, work.order, work.step, work.exchanges, part=work.part)
    assert isinstance(finished, Finished), f"step {work.step} is done, and nothing follows it"
    return _cleared(work, interventions.finish_confirmed(work, finished.residue, generation=publish.generation()), finished.residue)


def _cleared(work: Work, recorded: Recorded, residue: Residue) -> Recorded:
    if recorded.outcome == State.CLEARED:
        metrics.observe_cleared(work)
        log.debug("cleared")
        if None in (residue.slippage_usdt, residue.surplus, residue.dust):
            alarm("residue_unstorable", "what a cleared order leaves is beyond any column: it is stored as empty", order_id=work.order.order_id)
    if recorded.hold_code:
        alarm(recorded.hold_code, "cleared although a hold was set while its last step ran", order_id=work.order.order_id)
    return recorded


def _defer(work: Claimed, blocked: Blocked) -> Recorded:
    """Nothing was sent and nothing is counted: the order waits until it isn't blocked any more."""
    reaction = deferral(work.operation_state, blocked.retry_after_ms)
    log.debug("blocked", code=blocked.code)
    return claims.defer_blocked(work, blocked.code, reaction, generation=publish.generation())


def _reaction(work: Work, error: GatewayError, policy: Policy, *, counted: bool, asked: bool) -> Reaction:
    doubtful = isinstance(error, Rejected) and work.operation_state != OperationState.PLANNED and not asked
    if doubtful or isinstance(error, (KeyReused, KeyExpired, Held)):
        # An earlier sending may still be on its way: only the counterparty's answer for the key
        # makes a rejection final.
        return Reaction(State.PARKED, OperationState.UNKNOWN)
    retry_after_ms = error.retry_after_ms if isinstance(error, (Retryable, StillPending, UnknownOutcome)) else None
    # a query that is forbidden would be repeated for ever, without an alarm
    query_forbidden = isinstance(error, UnknownOutcome) and error.only_this_order and _is_worn_out(work, work.tries + 1)
    return react(
        outcome_of(error),
        tries=work.tries,
        attempts=work.attempts + counted,
        attempts_max=_attempts_max(work, error, policy) if counted else 2**31,
        backoff=policy.backoff(),
        retry_after_ms=retry_after_ms,
        overdue=query_forbidden or (policy.deadline_seconds is not None and work.tried_seconds() >= policy.deadline_seconds),
    )


def _attempts_max(work: Work, error: GatewayError, policy: Policy) -> int:
    """A call that is forbidden to one order only isn't tried hundreds of times, unless a policy of
    the operators says so.
    """
    if error.health != Health.FORBIDDING or policy.attempts_max or not _is_worn_out(work, work.attempts + 1):
        return policy.attempts()
    return min(policy.attempts(), FORBIDDEN_ATTEMPTS_MAX)


def _is_worn_out(work: Work, times: int) -> bool:
    """Whether it was forbidden often, and for long."""
    return times >= FORBIDDEN_ATTEMPTS_MAX and work.tried_seconds() >= FORBIDDEN_SECONDS_MIN


def _parked(work: Work, recorded: Recorded, code: str) -> Recorded:
    if recorded.outcome == State.PARKED:
        alarm("parked", "an order needs a person", order_id=work.order.order_id, error_code=code, step=work.step)
    return recorded
