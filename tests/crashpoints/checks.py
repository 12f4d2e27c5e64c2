"""What must be true when it is quiet again, whoever died and wherever: the rules of the design,
read from the database and from the books.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import connection

from clearing.models import Attempt, Clearing, Intervention, Operation, StatusChange
from clearing.status import TRANSITIONS, InterventionKind, InterventionState, OperationState, Outcome, State
from orders.models import SyncOrder
from tests.crashpoints.books import Books, step_of
from tests.crashpoints.scenario import Group

DOUBTFUL = frozenset({Outcome.UNKNOWN, Outcome.LOST, Outcome.PENDING})
_EVIDENCE = (
    "SELECT 'attempt ' || a.id, md5(a::text) FROM clearing_attempt a UNION ALL SELECT 'change ' || s.id, md5(s::text) FROM clearing_statuschange s"
)
_HELD = (  # but for one that people have confirmed: nobody sends it any more
    "SELECT c.id, c.epoch, c.claimed_by, o.id FROM clearing_clearing c JOIN LATERAL ("
    "SELECT n.id, n.state FROM clearing_operation n WHERE n.clearing_id = c.id AND n.step = c.step ORDER BY n.part DESC, n.revision DESC LIMIT 1"
    ") o ON o.state <> 'done' WHERE c.state = 'running'"
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a death leaves: the evidence so far, which nothing may take away, and the claims that
    the dead one held.
    """

    evidence: dict[str, str]
    held: Sequence[tuple[int, int, str, int]]


def snapshot() -> Snapshot:
    """As the database is now."""
    return Snapshot(dict(_rows(_EVIDENCE)), _rows(_HELD))


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the database has of the orders, read once."""

    clearings: Sequence[Clearing]
    operations: Mapping[int, Sequence[Operation]]  # by clearing
    attempts: Mapping[int, Sequence[Attempt]]  # by operation
    changes: Mapping[int, Sequence[StatusChange]]  # by clearing


def read_facts() -> Facts:
    """As the database is now."""
    operations, attempts, changes = defaultdict(list), defaultdict(list), defaultdict(list)
    for operation in Operation.objects.order_by("id"):
        operations[operation.clearing_id].append(operation)
    for attempt in Attempt.objects.order_by("id"):
        attempts[attempt.operation_id].append(attempt)
    for change in StatusChange.objects.order_by("id"):
        changes[change.clearing_id].append(change)
    return Facts(list(Clearing.objects.select_related("order").order_by("id")), operations, attempts, changes)


def violations(group: Group, books: Books, snapshots: Sequence[Snapshot]) -> list[str]:
    """Everything that isn't as it must be, in words."""
    facts = read_facts()
    found = [
        *books.broken,
        *_accepted(group, facts),
        *_evidence_kept(snapshots),
        *_claims_lost(facts, snapshots),
        *_users_in_order(group, books, facts),
        *group.scenario.also(),
    ]
    for clearing in facts.clearings:
        operations, changes = facts.operations[clearing.pk], facts.changes[clearing.pk]
        problems = [
            *_ended(group, clearing),
            *_history(clearing, changes),
            *_operations(clearing, operations),
            *_effects(clearing, operations, books),
            *_evidence_of_calls(operations, facts, books),
            *_rejections(operations, facts),
        ]
        found += [f"{clearing.order.order_id}: {problem}" for problem in problems]
    return found


def _rows(sql: str) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def _accepted(group: Group, facts: Facts) -> Iterator[str]:
    """Rule 2: each order once, with one clearing."""
    expected = sorted(order.order_id for order in group.scenario.orders)
    orders = sorted(SyncOrder.objects.values_list("order_id", flat=True))
    cleared = sorted(clearing.order.order_id for clearing in facts.clearings)
    if not orders == cleared == expected:
        yield f"the orders are {orders}, with clearings of {cleared}, and not {expected}"


def _ended(group: Group, clearing: Clearing) -> Iterator[str]:
    """Rule 11: nothing is stranded, and nothing is parked that should have cleared."""
    ended = clearing.error_code if clearing.state == State.PARKED else str(clearing.state)
    expected = group.ends(clearing.order.order_id)
    if ended not in expected:
        yield f"it ended as {clearing.state} {clearing.error_code}".rstrip() + f", and not as {' or '.join(sorted(expected))}"


def _history(clearing: Clearing, changes: Sequence[StatusChange]) -> Iterator[str]:
    """Rule 9 and the table of transitions: each change goes on from the one before, as it may."""
    state, epoch, step = "", 0, 1
    for change in changes:
        said = f"{change.from_state or 'new'} -> {change.to_state} at step {change.step}, epoch {change.epoch}"
        if change.from_state != state:
            yield f"history: {said} comes after {state or 'nothing'}"
        if state and State(change.to_state) not in TRANSITIONS[State(state)]:
            yield f"history: {said} is not in the table"
        if change.epoch != epoch + (change.to_state == State.QUEUED):
            yield f"history: {said} comes after epoch {epoch}"
        if not 0 <= change.step - step <= 1:
            yield f"history: {said} comes after step {step}"
        state, epoch, step = change.to_state, change.epoch, change.step
    if (state, epoch, step) != (clearing.state, clearing.epoch, clearing.step):
        yield f"history ends at {state}, epoch {epoch}, step {step}; the row is {clearing.state}, epoch {clearing.epoch}, step {clearing.step}"


def _operations(clearing: Clearing, operations: Sequence[Operation]) -> Iterator[str]:
    """No operation is left open; of a cleared order all are done."""
    newest = {(operation.step, operation.part): operation for operation in operations}  # the last revision of each
    ended = {OperationState.DONE} if clearing.state == State.CLEARED else set(OperationState) - {OperationState.OPEN}
    for operation in newest.values():
        if operation.state not in ended:
            yield f"operation {operation.key} was left {operation.state}"


def _effects(clearing: Clearing, operations: Sequence[Operation], books: Books) -> Iterator[str]:
    """Rules 4, 5 and 12: each step once, in order, and exactly the residue that the flow leaves."""
    order_id = clearing.order.order_id
    for (step, part), count in books.effects(order_id).items():
        if count > 1:
            yield f"step {step}{f' part {part}' if part else ''} took effect {count} times"
    applied = [effect for effect in books.applied if effect.order_id == order_id]
    steps = [step_of(effect.key) for effect in applied]
    if steps != sorted(steps):
        yield f"the steps took effect in the order {steps}"
    confirmed = {operation.key for operation in operations if operation.state == OperationState.DONE}
    if imagined := sorted(confirmed - {effect.key for effect in applied}):
        yield f"confirmed without an effect: {imagined}"
    if clearing.state == State.CLEARED:
        yield from _residue(clearing, {step: [effect for effect in applied if step_of(effect.key) == step] for step in (1, 2, 3, 4)})


def _residue(clearing: Clearing, effects: dict[int, list[Any]]) -> Iterator[str]:
    order = clearing.order
    if not all(effects.values()):
        yield f"cleared without an effect of step {[step for step, found in effects.items() if not found]}"
        return
    sold = sum(Decimal(effect.result["sold"]) for effect in effects[3])
    bought = sum(Decimal(effect.result["bought"]) for effect in effects[3])
    paid_in, paid_out = (Decimal(effects[step][0].request["amount"]) for step in (2, 4))
    opening = order.direction == "OPEN"
    if paid_in != (order.quoted_usdt if opening else order.quantity) or not 0 <= paid_in - sold < Decimal(effects[3][-1].result["min_lot"]):
        yield f"step 2 moved {paid_in}, step 3 sold {sold}"
    if paid_out != (bought if opening else order.quoted_usdt):
        yield f"step 3 bought {bought}, step 4 moved {paid_out}"
    gain = (bought - order.quantity) * order.quoted_usdt / order.quantity if opening else bought - order.quoted_usdt
    if sold == paid_in and (clearing.slippage_usdt is None or abs(clearing.slippage_usdt - gain) > Decimal("0.00000001")):
        yield f"its slippage is {clearing.slippage_usdt}, and not {gain:.8f}"


def _evidence_of_calls(operations: Sequence[Operation], facts: Facts, books: Books) -> Iterator[str]:
    """Rule 7: whatever may have been sent has left an attempt: its own, or `lost`."""
    for operation in operations:
        seen = books.seen.get(operation.key)
        if seen is None:
            continue
        sent = [attempt for attempt in facts.attempts[operation.pk] if not attempt.asked]
        if not facts.attempts[operation.pk] or (seen.sent and not sent and operation.state != OperationState.DONE):
            yield f"{operation.key} was called and no attempt says so"
        if seen.sent and operation.first_sent_at is None:
            yield f"{operation.key} was sent and doesn't say when"


def _rejections(operations: Sequence[Operation], facts: Facts) -> Iterator[str]:
    """Rule 7: where an earlier sending may have been applied, only what the counterparty says of
    the key, or two people, make a rejection final.
    """
    for operation in operations:
        attempts = facts.attempts[operation.pk]
        doubtful = any(attempt.outcome in DOUBTFUL for attempt in attempts if not attempt.asked)
        told = any(attempt.outcome == Outcome.REJECTED for attempt in attempts if attempt.asked)
        if operation.state == OperationState.REJECTED and doubtful and not told and not _confirmed_as_not_done(operation):
            yield f"{operation.key} counts as rejected, and an earlier sending of it may have been applied"


def _confirmed_as_not_done(operation: Operation) -> bool:
    decided = Intervention.objects.filter(kind=InterventionKind.CONFIRM_NOT_DONE, state=InterventionState.EXECUTED)
    return decided.filter(operation=operation).exists()


def _evidence_kept(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    """Attempts and history are append-only."""
    now = dict(_rows(_EVIDENCE))
    for kept in snapshots:
        for name, contents in kept.evidence.items():
            if now.get(name) != contents:
                yield f"{name} was there when the process died, and {'is gone' if name not in now else 'was changed'}"


def _claims_lost(facts: Facts, snapshots: Sequence[Snapshot]) -> Iterator[str]:
    """Rule 7: taking a claim over appends an attempt `lost`, since the dead worker may have sent
    the operation.
    """
    for kept in snapshots:
        for clearing_id, epoch, worker, operation_id in kept.held:
            lost = (attempt for attempt in facts.attempts[operation_id] if attempt.outcome == Outcome.LOST)
            if not any((attempt.epoch, attempt.worker) == (epoch, worker) for attempt in lost):
                yield f"clearing {clearing_id} was held by a dead worker (epoch {epoch}), and no attempt says that the claim was lost"


def _users_in_order(group: Group, books: Books, facts: Facts) -> Iterator[str]:
    """Rule 8: a user's orders one after another, the oldest first; an order that parks steps aside,
    and may come back after the next.
    """
    parked = {
        clearing.order.order_id for clearing in facts.clearings if any(change.to_state == State.PARKED for change in facts.changes[clearing.pk])
    }
    for user in sorted({order.user_id for order in group.scenario.orders}):
        expected = [order.order_id for order in sorted(group.scenario.orders, key=lambda o: o.sequence) if order.user_id == user]
        turns = [effect.order_id for effect in books.applied if effect.order_id in expected]
        began = [order_id for order_id in dict.fromkeys(turns) if order_id not in parked]
        if began != [order_id for order_id in expected if order_id in began]:
            yield f"the orders of user {user} began in the order {began}"
        for order_id in set(turns) - parked:
            first, count = turns.index(order_id), turns.count(order_id)
            if turns[first : first + count] != [order_id] * count:
                yield f"the orders of user {user} took turns: {turns}"


def account() -> Iterator[str]:
    """The history and the attempts of every order, for people."""
    facts = read_facts()
    for clearing in facts.clearings:
        yield f"{clearing.order.order_id}: {clearing.state} {clearing.error_code}, step {clearing.step}, epoch {clearing.epoch}"
        for change in facts.changes[clearing.pk]:
            states = f"{change.from_state or 'new':>8} -> {change.to_state:<8}"
            yield f"    {states} step {change.step} epoch {change.epoch} {change.actor}: {change.reason}"
        for operation in facts.operations[clearing.pk]:
            for attempt in facts.attempts[operation.pk]:
                asked = "asked" if attempt.asked else "sent"
                yield f"    attempt {operation.key} {asked} by {attempt.worker} (epoch {attempt.epoch}): {attempt.outcome} {attempt.code}"
