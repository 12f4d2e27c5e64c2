"""What a person may do to a clearing: retry it, or ask for something that a second person approves
(docs/decisions/0012).

Whatever is executed is one call of a database function, one commit, which finds the clearing as it
was asked for or changes nothing; the publish comes after the commit, and the sweep does it where we
died in between. Times are the database's.
"""

from dataclasses import dataclass
from datetime import datetime

import msgspec
from django.db import transaction

from base.alarms import tell
from base.readable import amount
from clearing.dispatch import publish
from clearing.flow.bookings import Booking, DoneOperation, to_make_whole
from clearing.flow.flows import EXCHANGE_STEP, Finished, Next, OrderFacts, Parks, Planned, after, plan, unsold
from clearing.gateways import Action, Counterparty, Exchanged, StoredRequest, read_result
from clearing.interventions.eligibility import VOIDED_BEFORE, Standing, check
from clearing.interventions.evidence import Confirmed, Unfit, answer_from
from clearing.models import Clearing, Intervention, Operation
from clearing.status import InterventionKind, OperationState, State
from clearing.store import interventions
from clearing.store.interventions import Decided, NotPossible, OutsideEvidence, Person, Seen

CONFIRMED_NOT_DONE = "confirmed_not_done"
FORGOTTEN_REVISIONS = 100  # more than anybody can have raised a key's revision in the time that a restore has forgotten
NO_EVIDENCE = OutsideEvidence()
UNDER_ANY_KEY = " The database was restored since: make sure that it was not done under a later revision of the key either."
VOIDED_AGAIN = " It was voided before the restore, and that void named what to book: those bookings stay as they are, and none of them is made again."
NEVER_VOIDED = (
    "It counts as never voided, and goes on in its lane's order; what was done is asked for first. If it was voided and booked by hand after all,"
    " it is cleared on top of that."
)
CHANGED = "it changed while you looked: load the page again"
PROBLEMS = {
    "decided": "it was decided already",
    "expired": "nobody approved it in time: it has to be asked for anew",
    "same_person": "who asked for it can't approve it",
    "changed": "the order changed since it was asked for, so nothing was done: look at it again",
    "says_done": "the counterparty has answered that the operation was done, so nothing was changed: see its attempts",
    "unfinished": "an operation of it isn't finished, so nothing was changed",
    "finished": "all its steps are done, so nothing was changed",
}


@dataclass(frozen=True, slots=True)
class Effect:
    """What an intervention will do, as people read it before they ask for it or approve it."""

    text: str
    bookings: tuple[Booking, ...] = ()


def current_operation(clearing: Clearing) -> Operation:
    """The operation that the clearing is at."""
    operation = clearing.operations.filter(step=clearing.step).order_by("-part", "-revision").first()
    assert operation is not None
    return operation


def standing_of(clearing: Clearing, operation: Operation) -> Standing:
    """How the order stands."""
    return Standing(
        State(clearing.state), clearing.step, clearing.error_code, clearing.hold_code, OperationState(operation.state), _is_settled(clearing)
    )


def _is_settled(clearing: Clearing) -> bool:
    return clearing.restored and interventions.is_settled(clearing.pk)


def _voided_before(clearing: Clearing) -> bool:
    return clearing.restored and interventions.voided_before(clearing.pk)


def _load(clearing_id: int) -> tuple[Clearing, Operation]:
    clearing = Clearing.objects.select_related("order").get(pk=clearing_id)
    return clearing, current_operation(clearing)


def _seen(clearing: Clearing, operation: Operation) -> Seen:
    return Seen(clearing.pk, clearing.epoch, State(clearing.state), operation.pk, OperationState(operation.state), clearing.held_at)


def _require_reason(reason: str, what: str) -> None:
    if not reason.strip():
        raise NotPossible("no_reason", f"{what} needs a reason: it stands in the audit log")


# --- retry: one person, at once -------------------------------------------------------------------


def retry_by_hand(clearing_id: int, *, actor: str, reason: str, actor_id: int | None = None, only_ask: bool = False) -> None:
    """Lets a parked or retrying clearing go on, in its lane's order, and publishes it. The reason
    and the actor stand in its history.

    After a final rejection, or after two people confirmed that it wasn't done, the operation's key
    gets the next revision; a partial execution gets a further part. With `only_ask` that is asked
    for and not sent, of a restored order that may have been retried in the forgotten time: it is
    found, or the order parks again. Raises NotPossible.
    """
    _require_reason(reason, "a retry")
    clearing, operation = _load(clearing_id)
    if only_ask:
        _require_forgotten(clearing)
    else:
        check(InterventionKind.RETRY, standing_of(clearing, operation))
    following, revision = _following(clearing, operation)
    outcome, ref = interventions.retry(
        _seen(clearing, operation),
        following,
        revision=revision,
        person=Person(actor, actor_id),
        reason=reason,
        generation=publish.generation(),
        only_ask=only_ask,
    )
    if outcome == "changed":
        raise NotPossible("changed", CHANGED)
    if outcome == "says_done":
        raise NotPossible("says_done", PROBLEMS["says_done"])
    if ref is not None:
        transaction.on_commit(lambda: publish.publish([ref]))


def _require_forgotten(clearing: Clearing) -> None:
    if clearing.state != State.PARKED or not interventions.is_forgotten(clearing.pk):
        raise NotPossible("not_forgotten", "no retry of it can be forgotten: only a parked order from before a restore is asked for so")


def _require_nothing_forgotten(clearing: Clearing, operation: Operation) -> None:
    """A void is computed from what we hold as done: what a forgotten retry did would be left out. A
    void from then hasn't left it out.
    """
    if _voided_before(clearing) or not interventions.is_forgotten(clearing.pk):
        return
    try:
        following, _ = _following(clearing, operation)
    except NotPossible:  # nothing is left that a retry could have done
        return
    assert following is not None
    raise NotPossible(
        "forgotten",
        f"the restore may have forgotten a retry: have the key {following.key} asked for first, by a retry that only asks",
    )


def _following(clearing: Clearing, operation: Operation) -> tuple[Planned | None, int]:
    """The operation that takes the current one's place, with its revision; none where the same
    bytes are sent again.
    """
    if operation.state == OperationState.REJECTED:
        ended = interventions.not_done_since_restore(clearing.pk)
        part, revision = operation.part, operation.revision + (FORGOTTEN_REVISIONS if ended else 1)
    elif operation.state == OperationState.DONE and clearing.step == EXCHANGE_STEP:
        part, revision = operation.part + 1, 0
    else:
        return None, operation.revision
    facts = facts_of(clearing)
    exchanges = exchanges_of(clearing)
    if clearing.step == EXCHANGE_STEP and unsold(facts, exchanges) <= 0:
        raise NotPossible(
            "nothing_left", "all of it was sold, and nothing bought for it: void the order, and have the trading service's people answer"
        )
    return plan(clearing.flow, facts, clearing.step, exchanges, part=part, revision=revision), revision


def facts_of(clearing: Clearing) -> OrderFacts:
    """The clearing's order as the flows see it."""
    order = clearing.order
    return OrderFacts(order.order_id, order.user_id, order.contract_id, order.direction, order.asset, order.quantity, order.quoted_usdt)


def exchanges_of(clearing: Clearing) -> list[Exchanged]:
    """What its step 3 has exchanged so far, part by part."""
    done = clearing.operations.filter(step=EXCHANGE_STEP, state=OperationState.DONE).order_by("part")
    results = (read_result(Action.EXCHANGE, bytes(operation.response or b"")) for operation in done)
    return [result for result in results if isinstance(result, Exchanged)]


# --- what a second person approves ----------------------------------------------------------------


def ask(clearing_id: int, kind: InterventionKind, *, person: Person, reason: str, evidence: OutsideEvidence = NO_EVIDENCE) -> int:
    """Asks for something that a second person has to approve within INTERVENTION_HOURS; a pending
    or unknown order parks meanwhile.

    Returns the intervention's primary key. Raises NotPossible.
    """
    _require_reason(reason, "this")
    clearing, operation = _load(clearing_id)
    effect_of(clearing, operation, kind, evidence)
    outcome, pk, ref = interventions.request_intervention(
        _seen(clearing, operation), kind, reason=reason, evidence=evidence, person=person, generation=publish.generation()
    )
    if ref is not None:
        transaction.on_commit(lambda: publish.publish([ref]))
    if outcome == "waiting":
        raise NotPossible("waiting", "something else waits for approval for this order: have it approved, refused or withdrawn first")
    if pk is None:
        raise NotPossible("changed", CHANGED)
    return pk


def effect_of(clearing: Clearing, operation: Operation, kind: InterventionKind, evidence: OutsideEvidence) -> Effect:
    """What it would do. Raises NotPossible: it can't be done as the order stands, or the evidence
    doesn't fit.
    """
    check(kind, standing_of(clearing, operation))
    match kind:
        case InterventionKind.RETRY:
            return Effect("The order goes on in its lane's order; what may have been applied is asked for first.")
        case InterventionKind.RELEASE_HOLD:
            if clearing.hold_code == VOIDED_BEFORE:
                return Effect(NEVER_VOIDED)
            return Effect("The contents that we accepted stand. The hold ends; an order that is parked for it alone goes on in its lane's order.")
        case InterventionKind.CONFIRM_DONE:
            return Effect(_done_text(operation, _next(clearing, operation, _confirmed(operation, evidence, 0, 0))))
        case InterventionKind.CONFIRM_NOT_DONE:
            return Effect(
                f"Step {operation.step} counts as finally rejected under the key {operation.key}. The order stays parked: a retry then sends it under"
                " the next revision of the key, or the order may be voided. If it was done after all, a retry does it twice."
                f"{UNDER_ANY_KEY if clearing.restored else ''}"
            )
        case InterventionKind.VOID:
            _require_nothing_forgotten(clearing, operation)
            bookings = tuple(bookings_of(clearing))
            again = VOIDED_AGAIN if _voided_before(clearing) else ""
            return Effect(f"The order is closed for good. Its user's next orders and those of its contract go on.{again}", bookings)


def _done_text(operation: Operation, following: Next) -> str:
    match following:
        case Finished(slippage_usdt):
            then = f"all steps are done: the order is cleared, with a slippage of {amount(slippage_usdt)} USDT"
        case Parks(code):
            then = f"the order stays parked ({code})"
        case Planned(parks=code) if code:
            then = f"the order stays parked ({code})"
        case Planned(step, part):
            then = f"the order goes on with step {step}{f', part {part}' if part > 1 else ''}"
    return f"Step {operation.step} counts as done; {then}."


def _confirmed(operation: Operation, evidence: OutsideEvidence, done_at_ms: int, intervention_id: int) -> Confirmed:
    stored = StoredRequest(Counterparty(operation.counterparty), Action(operation.action), operation.key, bytes(operation.request))
    try:
        return answer_from(stored, evidence, done_at_ms=done_at_ms, intervention_id=intervention_id)
    except Unfit as unfit:
        raise NotPossible("evidence", str(unfit)) from unfit


def _next(clearing: Clearing, operation: Operation, confirmed: Confirmed) -> Next:
    exchanges = exchanges_of(clearing)
    if isinstance(confirmed.result, Exchanged):
        exchanges = [*exchanges, confirmed.result]
    return after(clearing.flow, facts_of(clearing), operation.step, exchanges, part=operation.part)


def bookings_of(clearing: Clearing) -> list[Booking]:
    """The manual bookings that make the order whole again; of one that was voided before a restore,
    what was done since, mostly nothing.
    """
    done = clearing.operations.filter(state=OperationState.DONE).order_by("step", "part")
    if _voided_before(clearing):
        done = done.filter(pk__in=interventions.done_since_restore(clearing.pk))
    return to_make_whole(DoneOperation(Action(one.action), bytes(one.request), bytes(one.response or b"")) for one in done)


def approve(intervention_id: int, *, person: Person) -> str:
    """Executes what was asked for, and publishes whom it lets go on. Returns what came of it, for
    people.

    Raises NotPossible: it was decided already or has expired, `person` asked for it, the order
    changed, or it is too early.
    """
    intervention = Intervention.objects.select_related("clearing__order", "operation").get(pk=intervention_id)
    decided = _execute(intervention, person)
    ref = decided.next
    if ref is not None:
        transaction.on_commit(lambda: publish.publish([ref]))
    if decided.outcome == "too_early":
        raise NotPossible("too_early", f"a request may still be on its way: approve it after {_time(decided.not_before)}")
    if decided.outcome in PROBLEMS:
        raise NotPossible(decided.outcome, PROBLEMS[decided.outcome])
    intervention.refresh_from_db()
    transaction.on_commit(lambda: _tell(intervention))
    return intervention.outcome


def _tell(intervention: Intervention) -> None:
    """A database that comes back from a backup has forgotten it: whoever restores reads it here
    (docs/runbook.md).
    """
    tell(
        f"people_{intervention.kind}",
        "two people decided",
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


def _execute(intervention: Intervention, person: Person) -> Decided:
    """What is computed here of the clearing's operations holds as long as its epoch, its operation
    and the operation's state do.
    """
    generation, pk = publish.generation(), intervention.pk
    match InterventionKind(intervention.kind):
        case InterventionKind.RELEASE_HOLD:
            return interventions.release(pk, person=person, generation=generation)
        case InterventionKind.CONFIRM_DONE:
            return _execute_done(intervention, person, generation)
        case InterventionKind.CONFIRM_NOT_DONE:
            return interventions.confirm_not_done(pk, person=person, response=_note_of(intervention, person), code=CONFIRMED_NOT_DONE)
        case InterventionKind.VOID:
            _require_nothing_forgotten(intervention.clearing, current_operation(intervention.clearing))
            return interventions.void(pk, person=person, bookings=bookings_of(intervention.clearing), generation=generation)
        case InterventionKind.RETRY:
            return Decided("decided", None, None)


def _execute_done(intervention: Intervention, person: Person, generation: str) -> Decided:
    asked_ms = int(intervention.asked_at.timestamp() * 1000)
    confirmed = _confirmed(intervention.operation, evidence_of(intervention), asked_ms, intervention.pk)
    following = _next(intervention.clearing, intervention.operation, confirmed)
    planned = following if isinstance(following, Planned) else None
    code = following.code if isinstance(following, Parks) else planned.parks if planned else ""
    return interventions.confirm_done(intervention.pk, person=person, response=confirmed.body, code=code, following=planned, generation=generation)


def evidence_of(intervention: Intervention) -> OutsideEvidence:
    """What was brought forward when it was asked for."""
    return OutsideEvidence(intervention.reference, intervention.amount, intervention.bought, intervention.min_lot, intervention.document)


def _note_of(intervention: Intervention, person: Person) -> bytes:
    """What stands in the place of an answer for an operation that people say was not done."""
    return msgspec.json.encode(
        {
            "state": "not_done",
            "confirmed_by_intervention": intervention.pk,
            "asked_by": intervention.asked_by,
            "approved_by": person.name,
            "reason": intervention.reason,
            "reference": intervention.reference,
            "document": intervention.document,
        }
    )


def refuse(intervention_id: int, *, person: Person, reason: str) -> None:
    """Ends it without doing anything. Who asked for it withdraws it so. Raises NotPossible."""
    _require_reason(reason, "a refusal")
    if not interventions.refuse(intervention_id, person=person, reason=reason):
        raise NotPossible("decided", PROBLEMS["decided"])
