"""A clearing with all that an intervention is decided and computed from, read at one moment."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from clearing.flow.bookings import Booking, DoneOperation, to_make_whole
from clearing.flow.fills import unsold
from clearing.flow.flows import EXCHANGE_STEP, OrderFacts, Planned, key_of, plan
from clearing.gateways import Action, Exchanged, read_result
from clearing.interventions.eligibility import Situation
from clearing.models import Clearing, Operation
from clearing.status import OperationState, State
from clearing.store.interventions import Seen
from clearing.store.restored import RestoreFacts, done_since_restore, restore_facts

FORGOTTEN_REVISIONS = 100  # more than anybody can have raised a key's revision in the time that a restore has forgotten


@dataclass(frozen=True, slots=True)
class Case:
    """`operations`: all of the clearing's, by step, part and revision; there is at least one."""

    clearing: Clearing
    operations: Sequence[Operation]
    facts: RestoreFacts = field(default_factory=RestoreFacts)

    @property
    def operation(self) -> Operation:
        """The operation that the clearing is at."""
        return [operation for operation in self.operations if operation.step == self.clearing.step][-1]

    @property
    def situation(self) -> Situation:
        """What decides which interventions are possible."""
        clearing, operation, place = self.clearing, self.operation, self.place_of_next()
        return Situation(
            state=State(clearing.state),
            step=clearing.step,
            operation_state=OperationState(operation.state),
            error_code=clearing.error_code,
            hold_code=clearing.hold_code,
            next_key=key_of(clearing.order.order_id, clearing.step, *place) if place else "",
            nothing_left=place is not None and self._nothing_left(),
            forgotten=self.facts.forgotten,
            voided_before=self.facts.voided_before,
            settled=self.facts.settled,
        )

    @property
    def seen(self) -> Seen:
        """What a function of the database compares with before it changes anything."""
        clearing, operation = self.clearing, self.operation
        return Seen(clearing.pk, clearing.epoch, State(clearing.state), operation.pk, OperationState(operation.state), clearing.held_at)

    @property
    def order(self) -> OrderFacts:
        """The clearing's order as the flows see it."""
        order = self.clearing.order
        return OrderFacts(order.order_id, order.user_id, order.contract_id, order.direction, order.asset, order.quantity, order.quoted_usdt)

    @property
    def exchanges(self) -> list[Exchanged]:
        """What step 3 has exchanged so far, part by part."""
        done = (operation for operation in self.operations if operation.step == EXCHANGE_STEP and operation.state == OperationState.DONE)
        results = (read_result(Action.EXCHANGE, bytes(operation.response or b"")) for operation in done)
        return [result for result in results if isinstance(result, Exchanged)]

    def place_of_next(self) -> tuple[int, int] | None:
        """(part, revision) of the operation that takes the current one's place in a retry; None
        where the same bytes are sent again.
        """
        operation = self.operation
        if operation.state == OperationState.REJECTED:
            return operation.part, operation.revision + (FORGOTTEN_REVISIONS if self.facts.confirmed_not_done else 1)
        if operation.state == OperationState.DONE and self.clearing.step == EXCHANGE_STEP:
            return operation.part + 1, 0
        return None

    def following(self) -> tuple[Planned | None, int]:
        """The operation that takes the current one's place in a retry, if another does, and its
        revision.
        """
        place = self.place_of_next()
        return (self._plan(*place), place[1]) if place else (None, self.operation.revision)

    def bookings(self) -> list[Booking]:
        """The manual bookings that make the order whole again; of one that was voided before a
        restore, of what was done since.
        """
        done = [operation for operation in self.operations if operation.state == OperationState.DONE]
        if self.facts.voided_before:
            since = set(done_since_restore(self.clearing.pk))
            done = [operation for operation in done if operation.pk in since]
        return to_make_whole(
            DoneOperation(Action(operation.action), bytes(operation.request), bytes(operation.response or b"")) for operation in done
        )

    def _plan(self, part: int, revision: int) -> Planned:
        clearing = self.clearing
        return plan(clearing.flow, self.order, clearing.step, self.exchanges, part=part, revision=revision)

    def _nothing_left(self) -> bool:
        return self.clearing.step == EXCHANGE_STEP and unsold(self.order, self.exchanges) <= 0


def load(clearing_id: int) -> Case:
    """The clearing's case as it is now. Raises Clearing.DoesNotExist."""
    return read_case(Clearing.objects.select_related("order").get(pk=clearing_id))


def read_case(clearing: Clearing) -> Case:
    """One query, of an order from before a restore two."""
    return read_cases([clearing])[0]


def read_cases(clearings: Sequence[Clearing]) -> list[Case]:
    """The cases of clearings that were read with their orders: two queries at most. One without an
    operation yet is left out.
    """
    operations = defaultdict(list)
    for operation in Operation.objects.filter(clearing__in=clearings).order_by("step", "part", "revision"):
        operations[operation.clearing_id].append(operation)
    return [case_of(clearing, operations[clearing.pk], facts) for clearing, facts in _with_facts(clearings) if operations[clearing.pk]]


def case_of(clearing: Clearing, operations: Sequence[Operation], facts: RestoreFacts | None = None) -> Case:
    """The case of a clearing whose operations are read already."""
    return Case(clearing, operations, facts or dict(_with_facts([clearing]))[clearing])


def _with_facts(clearings: Sequence[Clearing]) -> Iterable[tuple[Clearing, RestoreFacts]]:
    facts = restore_facts([clearing.pk for clearing in clearings if clearing.restored])
    return [(clearing, facts.get(clearing.pk, RestoreFacts())) for clearing in clearings]
