"""Operator commands on the status table: each is one call of a database function, one commit.

Raises Busy where another session keeps the order's locks for longer than a session waits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal

import msgspec
from django.conf import settings
from django.db import OperationalError

from base.db import Row, call, gave_up_waiting
from clearing.flow.bookings import Booking
from clearing.flow.fills import Residue
from clearing.flow.flows import LAST_STEP, Next, Parks, Planned
from clearing.status import InterventionKind, OperationState, State
from clearing.store import statements
from clearing.store.claims import ClearingRef, Recorded, Work, of_claim, of_planned, of_residue, read_ref, recorded


class NotPossible(Exception):  # noqa: N818 - an answer to an operator
    """What was asked for can't be done; `code` and the message say why and what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Busy(NotPossible):
    """Somebody else kept the order's locks for longer than a session waits: nothing was done, and
    an open transaction has to be rolled back.
    """

    def __init__(self) -> None:
        super().__init__("busy", "an order of this user is being changed at this very moment, so nothing was done: do it once more")


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts: the name that the history shows, and the user's key, which stays when a name is
    changed (None: no user of the admin). The functions in SQL call them p_person and p_person_id,
    since a parameter that has another name is another signature.
    """

    name: str
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A clearing as an operator saw it; whatever is done to it is done only if it still is so."""

    clearing_id: int
    epoch: int
    state: State
    operation_id: int
    operation_state: OperationState
    held_at: datetime | None


@dataclass(frozen=True, slots=True)
class OutsideEvidence:
    """What operators know from outside. `amount`: what was transferred or sold, `bought`: what it
    brought, `min_lot`: the market's, of a rest.
    """

    reference: str = ""
    amount: Decimal | None = None
    bought: Decimal | None = None
    min_lot: Decimal | None = None
    document: str = ""


@dataclass(frozen=True, slots=True)
class Decided:
    """What an approval came to: the clearing's state now, or why not; `not_before`: when it is no
    longer too early.
    """

    outcome: str
    not_before: datetime | None
    next: ClearingRef | None


def _by_operator(sql: str, arguments: Mapping[str, object]) -> list[Row]:
    try:
        return call(sql, arguments)
    except OperationalError as error:
        if gave_up_waiting(error):
            raise Busy from error
        raise


def retry(
    seen: Seen, following: Planned | None, *, revision: int, operator: Operator, reason: str, generation: str, only_ask: bool = False
) -> tuple[str, ClearingRef | None]:
    """An operator's retry; `following` takes the current operation's place. With `only_ask` a
    status query is made for it, and a hold parks the order before anything is sent.

    Returns ("waiting" | "queued" | "changed" | "says_done", whom to publish).
    """
    row = _by_operator(
        statements.ASK_NEXT if only_ask else statements.RETRY,
        {
            **_seen(seen),
            "actor": operator.name,
            "actor_id": operator.id,
            "reason": reason,
            "part": following and following.part,
            "revision": revision,
            "key": following and following.key,
            "request": following and following.request,
            "generation": generation,
        },
    )[0]
    return row.outcome, read_ref(row, "ref")


def _seen(seen: Seen) -> dict[str, object]:
    return {
        "id": seen.clearing_id,
        "epoch": seen.epoch,
        "state": seen.state,
        "operation": seen.operation_id,
        "operation_state": seen.operation_state,
    }


def request_intervention(
    seen: Seen, kind: InterventionKind, *, reason: str, evidence: OutsideEvidence, operator: Operator, generation: str
) -> tuple[str, int | None, ClearingRef | None]:
    """Writes down what is asked for. Returns ("asked" | "changed" | "waiting", its primary key,
    whom to publish).
    """
    row = _by_operator(
        statements.REQUEST_INTERVENTION,
        {
            **_seen(seen),
            **asdict(evidence),
            "held_at": seen.held_at,
            "kind": kind,
            "reason": reason,
            "actor": operator.name,
            "actor_id": operator.id,
            "hours": settings.INTERVENTION_HOURS,
            "generation": generation,
        },
    )[0]
    return row.outcome, row.intervention, read_ref(row, "next")


def refuse(intervention_id: int, *, operator: Operator, reason: str) -> bool:
    """Ends an intervention that waits for approval. False: it doesn't wait any more."""
    sql = (
        "UPDATE clearing_intervention SET state = 'refused', decided_by = %(operator)s, decided_at = service_now(), outcome = %(reason)s"
        " WHERE id = %(intervention)s AND state = 'requested' RETURNING id"
    )
    return bool(_by_operator(sql, {"intervention": intervention_id, "operator": operator.name, "reason": reason}))


def release(intervention_id: int, *, operator: Operator, generation: str) -> Decided:
    """The hold is released."""
    return _decided(statements.RELEASE, intervention_id, operator, generation=generation)


def confirm_done(intervention_id: int, *, operator: Operator, response: bytes, following: Next, generation: str) -> Decided:
    """The current operation is done, with a response made of the evidence; what follows is written
    down, or parks the order.
    """
    nothing = dict.fromkeys(("step", "part", "counterparty", "action", "key", "request"))
    planned = of_planned(following) if isinstance(following, Planned) else nothing
    match following:
        case Planned(parks=code, holds=holds) | Parks(code, holds):
            parks = {"code": code, "holds": holds}
        case _:
            parks = {"code": "", "holds": False}
    more = {**_in_transit(), **planned, **parks, "response": response, "generation": generation}
    return _decided(statements.CONFIRM_DONE, intervention_id, operator, **more)


def confirm_not_done(intervention_id: int, *, operator: Operator, response: bytes, code: str) -> Decided:
    """The current operation counts as rejected, under `code`."""
    return _decided(statements.CONFIRM_NOT_DONE, intervention_id, operator, **_in_transit(), response=response, code=code)


def void(intervention_id: int, *, operator: Operator, bookings: Sequence[Booking], generation: str) -> Decided:
    """The order is closed; the bookings are kept with the intervention."""
    plain = [{"account": booking.account, "asset": booking.asset, "amount": booking.signed} for booking in bookings]
    more = {**_in_transit(), "last_step": LAST_STEP, "bookings": msgspec.json.encode(plain).decode(), "generation": generation}
    return _decided(statements.VOID, intervention_id, operator, **more)


def _in_transit() -> dict[str, object]:
    """How long a request may be applied after its attempt began."""
    return {"claim_seconds": settings.CLEARING_CLAIM_SECONDS, "transit_seconds": settings.REQUEST_TRANSIT_SECONDS}


def _decided(statement: str, intervention_id: int, operator: Operator, **more: object) -> Decided:
    row = _by_operator(statement, {"intervention": intervention_id, "person": operator.name, "person_id": operator.id, **more})[0]
    return Decided(row.outcome, row.not_before, read_ref(row, "next"))


def finish_confirmed(work: Work, residue: Residue, *, generation: str) -> Recorded:
    """Operators confirmed the last operation: cleared, and the user's next order queued."""
    row = recorded(statements.FINISH_CONFIRMED, work, lambda: {**of_claim(work), "step": work.step, **of_residue(residue), "generation": generation})
    return Recorded(row.outcome, next=read_ref(row, "next"), hold_code=row.hold_code)


def park_confirmed(work: Work, code: str, *, generation: str) -> Recorded:
    """An internal error keeps an order whose last operation was confirmed by operators from being
    cleared: it parks, with the operation done.
    """
    row = recorded(statements.PARK_CONFIRMED, work, lambda: {**of_claim(work), "code": code, "generation": generation})
    return Recorded(row.outcome, next=read_ref(row, "next"))


def on_its_way_until(clearing_id: int) -> datetime | None:
    """Until when a request of an operation that isn't confirmed may still be applied, as of now;
    None: none may.
    """
    until: datetime | None = call(statements.ON_ITS_WAY_UNTIL, {"id": clearing_id, **_in_transit()})[0].until
    return until


def expire(limit: int) -> int:
    """Ends interventions that nobody approved in time. Returns how many."""
    return len(call("SELECT clearing_expire(%s)", [limit]))


@dataclass(frozen=True, slots=True)
class Waiting:
    """An order that has waited long for an operator."""

    order_id: str
    direction: str
    error_code: str
    step: int
    waiting_seconds: float


def remind(*, limit: int, window: int) -> list[Waiting]:
    """Orders that operators are to be reminded of, CLOSE first, marked as reminded."""
    return [Waiting(**row._asdict()) for row in call(statements.REMIND, _reminding(limit, window))]


@dataclass(frozen=True, slots=True)
class Unknown:
    """An order of which nobody has known for long what became of its operation."""

    order_id: str
    direction: str
    counterparty: str
    error_code: str
    step: int
    state: str
    unknown_seconds: float


def remind_unknown(*, limit: int, window: int) -> list[Unknown]:
    """Orders that are unknown or pending for longer than PARKED_REMINDER_SECONDS, CLOSE first,
    marked as reminded.
    """
    return [Unknown(**row._asdict()) for row in call(statements.REMIND_UNKNOWN, _reminding(limit, window))]


def _reminding(limit: int, window: int) -> dict[str, object]:
    return {"seconds": settings.PARKED_REMINDER_SECONDS, "limit": limit, "window": window}
