"""Operator actions on a clearing: a retry by one operator, and interventions that a second one
approves (docs/decisions/0012).

Each is executed by one call of a database function, one commit, which changes nothing unless the
clearing is still as it was when the intervention was requested. The publish comes after the commit;
if the process dies in between, the sweep publishes. Times are the database's.
"""

from datetime import datetime

import msgspec
from django.db import transaction

from base.alarms import notify
from base.desk.rights import why_not_approve
from base.readable import amount
from clearing.dispatch import publish
from clearing.flow.fills import doubts
from clearing.flow.flows import IMPLAUSIBLE_FILL, SLIPPAGE_EXCEEDED, Finished, Next, Parks, Planned, after
from clearing.gateways import Action, Counterparty, Exchanged, StoredRequest
from clearing.interventions.case import Case, load, read_case
from clearing.interventions.comparison import Consequences, Line, compared, fill_text, in_words, next_call, price_of
from clearing.interventions.eligibility import VOIDED_BEFORE, require, require_nothing_forgotten, require_query
from clearing.interventions.evidence import Confirmed, Unfit, answer_from
from clearing.models import Intervention, Operation
from clearing.status import InterventionKind, OperationState
from clearing.store import interventions
from clearing.store.bounds import LIMIT_EXCEEDED
from clearing.store.interventions import Decided, NotPossible, Operator, OutsideEvidence

CONFIRMED_NOT_DONE = "confirmed_not_done"
NO_EVIDENCE = OutsideEvidence()
UNDER_ANY_KEY = " The database was restored since: make sure that it was not done under a later revision of the key either."
VOIDED_AGAIN = " It was voided before the restore, and that void named what to book: those bookings stay as they are, and none of them is made again."
NEVER_VOIDED = (
    "It counts as never voided, and goes on in its lane's order; each step starts with a status query. If it was voided and booked by hand after"
    " all, it is cleared in addition."
)
CONTENTS_REMAIN = "The contents that were accepted remain valid. The hold ends; an order that is parked for it alone goes on in its lane's order."
HOLDS_RELEASED = {
    VOIDED_BEFORE: NEVER_VOIDED,
    LIMIT_EXCEEDED: "It is beyond a bound of what an order, or a user in a day, may move. It goes on in its lane's order, with its first step.",
    SLIPPAGE_EXCEEDED: "The exchange accepts the market's price. The order goes on in its lane's order.",
    IMPLAUSIBLE_FILL: "What the market answered counts as it is. The order goes on in its lane's order; it stays parked where a rest is to be sold.",
}
CHANGED = "the order changed meanwhile: load the page again"
PROBLEMS = {
    "decided": "it was decided already",
    "expired": "nobody approved it in time: request it again",
    "same_person": "the operator who requested it can't approve it",
    "changed": "the order changed since it was requested, so nothing was done: look at it again",
    "says_done": "the counterparty has answered that the operation was done, so nothing was changed: see its attempts",
    "unfinished": "one of its operations isn't finished, so nothing was changed",
    "finished": "all its steps are done, so nothing was changed",
}


def _require_reason(reason: str, what: str) -> None:
    if not reason.strip():
        raise NotPossible("no_reason", f"{what} needs a reason: it is kept in the audit log")


# --- retry: one operator, at once -----------------------------------------------------------------


def retry_by_hand(clearing_id: int, *, actor: str, reason: str, actor_id: int | None = None, query_only: bool = False) -> None:
    """Lets a parked or retrying clearing go on, in its lane's order, and publishes it. The reason
    and the actor are kept in its history.

    After a final rejection, or after two operators confirmed that it was not done, the operation's
    key gets the next revision; a partial execution gets a further part. With `query_only` that key
    is queried and nothing sent, for a restored order that may have been retried in the forgotten
    time: what was done under it is found, or the order parks again. Raises NotPossible.
    """
    _require_reason(reason, "a retry")
    case = load(clearing_id)
    if query_only:
        require_query(case.situation)
    else:
        require(InterventionKind.RETRY, case.situation)
    following, revision = case.following()
    outcome, ref = interventions.retry(
        case.seen,
        following,
        revision=revision,
        operator=Operator(actor, actor_id),
        reason=reason,
        generation=publish.generation(),
        only_ask=query_only,
    )
    if outcome == "changed":
        raise NotPossible("changed", CHANGED)
    if outcome == "says_done":
        raise NotPossible("says_done", PROBLEMS["says_done"])
    if ref is not None:
        transaction.on_commit(lambda: publish.publish([ref]))


# --- what a second operator approves --------------------------------------------------------------


def request_approval(clearing_id: int, kind: InterventionKind, *, operator: Operator, reason: str, evidence: OutsideEvidence = NO_EVIDENCE) -> int:
    """Requests an intervention that a second operator has to approve within INTERVENTION_HOURS; a
    pending or unknown order parks meanwhile.

    Returns the intervention's primary key. Raises NotPossible.
    """
    _require_reason(reason, "an intervention")
    case = load(clearing_id)
    consequences_of(case, kind, evidence)
    outcome, pk, ref = interventions.request_intervention(
        case.seen, kind, reason=reason, evidence=evidence, operator=operator, generation=publish.generation()
    )
    if ref is not None:
        transaction.on_commit(lambda: publish.publish([ref]))
    if outcome == "waiting":
        raise NotPossible("waiting", "another intervention in this order waits for approval: have it approved, refused or withdrawn first")
    if pk is None:
        raise NotPossible("changed", CHANGED)
    return pk


def consequences_of(case: Case, kind: InterventionKind, evidence: OutsideEvidence) -> Consequences:
    """What an intervention would do. Raises NotPossible: the order's situation doesn't allow it, or
    the evidence doesn't fit.
    """
    require(kind, case.situation)
    operation = case.operation
    match kind:
        case InterventionKind.RETRY:
            return Consequences("The order goes on in its lane's order; a step that may have been applied starts with a status query.")
        case InterventionKind.RELEASE_HOLD:
            return _released(case)
        case InterventionKind.CONFIRM_DONE:
            return _done(case, evidence)
        case InterventionKind.CONFIRM_NOT_DONE:
            return Consequences(
                f"Step {operation.step} counts as finally rejected under the key {operation.key}. The order stays parked: a retry then sends it under"
                " the next revision of the key, or the order may be voided. If it was done after all, a retry does it twice."
                f"{UNDER_ANY_KEY if case.clearing.restored else ''}"
            )
        case InterventionKind.VOID:
            again = VOIDED_AGAIN if case.facts.voided_before else ""
            return Consequences(
                f"The order is closed for good. Its user's next orders and those of its contract go on.{again}", tuple(case.bookings())
            )


def _released(case: Case) -> Consequences:
    """Of a hold that a bound of money has set: what it is about, and what will be sent."""
    text = HOLDS_RELEASED.get(case.clearing.hold_code, CONTENTS_REMAIN)
    fill = fill_text(case.order, case.exchanges)
    operation = case.operation
    if operation.state == OperationState.DONE:
        return Consequences(text, lines=_fill_line(fill))
    call, request = in_words(stored_of(operation), operation.step)
    return Consequences(text, lines=_fill_line(fill), next_call=call, next_request=request)


def _fill_line(fill: str) -> tuple[Line, ...]:
    return (Line("The market's fill", "", fill),) if fill else ()


def _done(case: Case, evidence: OutsideEvidence) -> Consequences:
    operation = case.operation
    confirmed = _confirmed(case, operation, evidence, 0, 0)
    following = _next(case, operation, confirmed)
    call, request = next_call(following if isinstance(following, Planned) else None)
    return Consequences(
        _done_text(operation, following), lines=compared(case.order, stored_of(operation), evidence, confirmed), next_call=call, next_request=request
    )


def _done_text(operation: Operation, following: Next) -> str:
    match following:
        case Finished(residue):
            then = f"all steps are done: the order is cleared, with a slippage of {amount(residue.slippage_usdt)} USDT"
        case Parks(code):
            then = f"the order stays parked ({code})"
        case Planned(parks=code) if code:
            then = f"the order stays parked ({code})"
        case Planned(step, part):
            then = f"the order goes on with step {step}{f', part {part}' if part > 1 else ''}"
    return f"Step {operation.step} counts as done; {then}."


def stored_of(operation: Operation) -> StoredRequest:
    """An operation's request as it was written down."""
    return StoredRequest(Counterparty(operation.counterparty), Action(operation.action), operation.key, bytes(operation.request))


def _confirmed(case: Case, operation: Operation, evidence: OutsideEvidence, done_at_ms: int, intervention_id: int) -> Confirmed:
    """The answer that the evidence amounts to. Raises NotPossible: it doesn't fit, or no market
    gives what was typed; then it is refused whoever approves it (design, rule 13).
    """
    try:
        confirmed = answer_from(stored_of(operation), evidence, done_at_ms=done_at_ms, intervention_id=intervention_id)
    except Unfit as unfit:
        raise NotPossible("evidence", str(unfit)) from unfit
    if isinstance(confirmed.result, Exchanged) and (why := doubts(case.order, confirmed.result)):
        raise NotPossible("implausible", f"no approval makes this possible, so check each digit: {_typed(confirmed.result)}; {why}")
    return confirmed


def _typed(said: Exchanged) -> str:
    price = price_of(said)
    at = f", {amount(price)} USDT a coin" if price is not None else ""
    return f"{amount(said.sold)} {said.sell_asset} sold for {amount(said.bought)} {said.buy_asset}{at}"


def _next(case: Case, operation: Operation, confirmed: Confirmed) -> Next:
    exchanges = case.exchanges
    if isinstance(confirmed.result, Exchanged):
        exchanges = [*exchanges, confirmed.result]
    return after(case.clearing.flow, case.order, operation.step, exchanges, part=operation.part)


def approve(intervention_id: int, *, operator: Operator) -> str:
    """Executes the intervention, and publishes the order that may go on by it. Returns the outcome
    in words.

    Raises NotPossible: it was decided already or has expired, `operator` requested it or isn't a
    settled approver, the order changed, or it is too early.
    """
    intervention = Intervention.objects.select_related("clearing__order", "operation").get(pk=intervention_id)
    decided = _execute(intervention, operator)
    ref = decided.next
    if ref is not None:
        transaction.on_commit(lambda: publish.publish([ref]))
    if decided.outcome == "too_early":
        raise NotPossible("too_early", f"a request may still be on its way: approve it after {_time(decided.not_before)}")
    if decided.outcome in PROBLEMS:
        raise _refusal(decided.outcome, intervention, operator)
    intervention.refresh_from_db()
    transaction.on_commit(lambda: _tell(intervention))
    return intervention.outcome


def _refusal(outcome: str, intervention: Intervention, operator: Operator) -> NotPossible:
    """The database says `same_person` also where it is another one who may not approve."""
    if outcome == "same_person" and operator.name != intervention.asked_by and operator.id != intervention.asked_by_id:
        return NotPossible(*why_not_approve(operator.id))
    return NotPossible(outcome, PROBLEMS[outcome])


def _tell(intervention: Intervention) -> None:
    """Writes the decision to the log, outside the database: a restored database has forgotten it,
    and the operator who restores finds it there (docs/runbook.md).
    """
    notify(
        f"people_{intervention.kind}",
        "two operators decided",
        order_id=intervention.clearing.order.order_id,
        intervention=intervention.pk,
        key=intervention.operation.key,
        asked_by=intervention.asked_by,
        approved_by=intervention.decided_by,
        decided_at=intervention.decided_at,
        reason=intervention.reason,
        reference=intervention.reference,
        outcome=intervention.outcome,
        bookings=intervention.bookings,
    )


def _time(moment: datetime | None) -> str:
    return f"{moment:%H:%M:%S} UTC" if moment else "a minute"


def _execute(intervention: Intervention, operator: Operator) -> Decided:
    """What is computed here from the clearing's operations is valid as long as its epoch, its
    current operation and that operation's state stay the same; the database's function checks
    these.
    """
    generation, pk = publish.generation(), intervention.pk
    match InterventionKind(intervention.kind):
        case InterventionKind.RELEASE_HOLD:
            return interventions.release(pk, operator=operator, generation=generation)
        case InterventionKind.CONFIRM_DONE:
            return _execute_done(intervention, operator, generation)
        case InterventionKind.CONFIRM_NOT_DONE:
            return interventions.confirm_not_done(pk, operator=operator, response=_note_of(intervention, operator), code=CONFIRMED_NOT_DONE)
        case InterventionKind.VOID:
            case = read_case(intervention.clearing)
            require_nothing_forgotten(case.situation)
            return interventions.void(pk, operator=operator, bookings=case.bookings(), generation=generation)
        case InterventionKind.RETRY:
            return Decided("decided", None, None)


def _execute_done(intervention: Intervention, operator: Operator, generation: str) -> Decided:
    asked_ms = int(intervention.asked_at.timestamp() * 1000)
    case = read_case(intervention.clearing)
    confirmed = _confirmed(case, intervention.operation, evidence_of(intervention), asked_ms, intervention.pk)
    following = _next(case, intervention.operation, confirmed)
    return interventions.confirm_done(intervention.pk, operator=operator, response=confirmed.body, following=following, generation=generation)


def evidence_of(intervention: Intervention) -> OutsideEvidence:
    """The evidence that came with the request."""
    return OutsideEvidence(intervention.reference, intervention.amount, intervention.bought, intervention.min_lot, intervention.document)


def _note_of(intervention: Intervention, operator: Operator) -> bytes:
    """What is stored in place of an answer for an operation that two operators confirmed as not
    done.
    """
    return msgspec.json.encode(
        {
            "state": "not_done",
            "confirmed_by_intervention": intervention.pk,
            "asked_by": intervention.asked_by,
            "approved_by": operator.name,
            "reason": intervention.reason,
            "reference": intervention.reference,
            "document": intervention.document,
        }
    )


def refuse(intervention_id: int, *, operator: Operator, reason: str) -> None:
    """Ends a requested intervention and leaves the order unchanged; the operator who requested it
    withdraws it so. Raises NotPossible.
    """
    _require_reason(reason, "a refusal")
    if not interventions.refuse(intervention_id, operator=operator, reason=reason):
        raise NotPossible("decided", PROBLEMS["decided"])
