"""The people's leaf of the door to the status table (`clearing/store/claims.py`): each is one call
of a function of `sql/06_people.sql`, one commit.

What a person does raises Busy where others keep the order's locks for longer than a session waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import msgspec
from django.conf import settings
from django.db import OperationalError

from base.db import Row, call, gave_up_waiting
from clearing.flow.bookings import Booking
from clearing.flow.flows import Planned
from clearing.status import InterventionKind, OperationState, State
from clearing.store.claims import REF, ClearingRef, Recorded, Work, read_ref, recorded


class NotPossible(Exception):  # noqa: N818 - an answer to a person
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
class Person:
    """Who acts: the name that the history tells, and the user's key, which stays when a name is
    changed (None: no user of the admin).
    """

    name: str
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """A clearing as a person saw it; whatever is done to it is done only if it still is so."""

    clearing_id: int
    epoch: int
    state: State
    operation_id: int
    operation_state: OperationState
    held_at: datetime | None


@dataclass(frozen=True, slots=True)
class OutsideEvidence:
    """What people know from outside. `amount`: what was transferred or sold, `bought`: what it
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


def _by_hand(sql: str, params: Sequence[object]) -> list[Row]:
    try:
        return call(sql, params)
    except OperationalError as error:
        if gave_up_waiting(error):
            raise Busy from error
        raise


def retry(
    seen: Seen, following: Planned | None, *, revision: int, person: Person, reason: str, generation: str, only_ask: bool = False
) -> tuple[str, ClearingRef | None]:
    """A person's retry; `following` takes the current operation's place. With `only_ask` it is
    asked for, and held before anything is sent.

    Returns ("waiting" | "queued" | "changed" | "says_done", whom to publish).
    """
    part, key, request = (following.part, following.key, following.request) if following else (None, None, None)
    function = "clearing_ask_next" if only_ask else "clearing_retry"
    row = _by_hand(
        f"SELECT outcome, {REF.format('ref')} FROM {function}(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(seen.clearing_id, seen.epoch, seen.state, seen.operation_id, seen.operation_state, person.name, person.id, reason),
            *(part, revision, key, request, generation),
        ],
    )[0]
    return row[0], read_ref(row[1:])


def ask(
    seen: Seen, kind: InterventionKind, *, reason: str, evidence: OutsideEvidence, person: Person, generation: str
) -> tuple[str, int | None, ClearingRef | None]:
    """Writes down what is asked for. Returns ("asked" | "changed" | "waiting", its primary key,
    whom to publish).
    """
    row = _by_hand(
        f"SELECT outcome, intervention, {REF.format('next')} FROM clearing_ask(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [
            *(seen.clearing_id, seen.epoch, seen.state, seen.operation_id, seen.operation_state, seen.held_at, kind, reason),
            *(evidence.reference, evidence.amount, evidence.bought, evidence.min_lot, evidence.document, person.name, person.id),
            *(settings.INTERVENTION_HOURS, generation),
        ],
    )[0]
    return row[0], row[1], read_ref(row[2:])


def refuse(intervention_id: int, *, person: Person, reason: str) -> bool:
    """Ends an intervention that waits for approval. False: it doesn't wait any more."""
    sql = (
        "UPDATE clearing_intervention SET state = 'refused', decided_by = %s, decided_at = service_now(), outcome = %s"
        " WHERE id = %s AND state = 'requested' RETURNING id"
    )
    return bool(_by_hand(sql, [person.name, reason, intervention_id]))


def release(intervention_id: int, *, person: Person, generation: str) -> Decided:
    """The hold is released."""
    return _decided("clearing_release(%s, %s, %s, %s)", [intervention_id, person.name, person.id, generation])


def confirm_done(intervention_id: int, *, person: Person, response: bytes, code: str, following: Planned | None, generation: str) -> Decided:
    """The current operation is done, with a response made of the evidence; `following` is written
    down, or `code` parks the order.
    """
    planned = (
        (following.step, following.part, following.counterparty, following.action, following.key, following.request) if following else (None,) * 6
    )
    return _decided(
        "clearing_confirm_done(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
        [intervention_id, person.name, person.id, *_times(), response, code, *planned, generation],
    )


def confirm_not_done(intervention_id: int, *, person: Person, response: bytes, code: str) -> Decided:
    """The current operation counts as rejected, under `code`."""
    return _decided("clearing_confirm_not_done(%s, %s, %s, %s, %s, %s, %s)", [intervention_id, person.name, person.id, *_times(), response, code])


def void(intervention_id: int, *, person: Person, bookings: Sequence[Booking], generation: str) -> Decided:
    """The order is closed; the bookings are kept with the intervention."""
    plain = msgspec.json.encode([{"account": one.account, "asset": one.asset, "amount": one.signed} for one in bookings]).decode()
    return _decided("clearing_void(%s, %s, %s, %s, %s, %s::jsonb, %s)", [intervention_id, person.name, person.id, *_times(), plain, generation])


def _times() -> tuple[float, float]:
    return settings.CLEARING_CLAIM_SECONDS, settings.REQUEST_TRANSIT_SECONDS


def _decided(function: str, params: Sequence[object]) -> Decided:
    row = _by_hand(f"SELECT outcome, not_before, {REF.format('next')} FROM {function}", params)[0]
    return Decided(row[0], row[1], read_ref(row[2:]))


def finish_confirmed(work: Work, slippage_usdt: Decimal, *, generation: str) -> Recorded:
    """The last operation was confirmed by people: cleared, and the user's next order queued."""
    row = recorded(
        f"SELECT outcome, hold_code, {REF.format('next')} FROM clearing_finish_confirmed(%s, %s, %s, %s, %s, %s)",
        work,
        lambda: [work.clearing_id, work.epoch, work.order.user_id, work.worker, slippage_usdt, generation],
    )
    return Recorded(row[0], next=read_ref(row[2:]), hold_code=row[1])


def park_confirmed(work: Work, code: str, *, generation: str) -> Recorded:
    """A mistake of ours keeps an order whose last operation was confirmed by people from being
    cleared: it parks, with the operation done.
    """
    row = recorded(
        f"SELECT outcome, {REF.format('next')} FROM clearing_park_confirmed(%s, %s, %s, %s, %s, %s)",
        work,
        lambda: [work.clearing_id, work.epoch, work.order.user_id, work.worker, code, generation],
    )
    return Recorded(row[0], next=read_ref(row[1:]))


def on_its_way_until(clearing_id: int) -> datetime | None:
    """Until when a request of an operation that isn't confirmed may still be applied, as of now;
    None: none may.
    """
    until: datetime | None = call("SELECT clearing_on_its_way_until(%s, %s, %s)", [clearing_id, *_times()])[0][0]
    return until


def is_forgotten(clearing_id: int) -> bool:
    """Whether a retry of a restored order may have been done in the forgotten time, under a key
    that nobody has asked for since.
    """
    return bool(call("SELECT clearing_is_forgotten(%s)", [clearing_id])[0][0])


def not_done_since_restore(clearing_id: int) -> bool:
    """Whether people have confirmed since a restore that a restored order's current step was not
    done.
    """
    return bool(call("SELECT clearing_not_done_since_restore(%s)", [clearing_id])[0][0])


def voided_before(clearing_id: int) -> bool:
    """Whether it was told of a restored order that people had voided it before, and nobody has
    released it since.
    """
    return bool(call("SELECT clearing_voided_before(%s)", [clearing_id])[0][0])


def is_settled(clearing_id: int) -> bool:
    """Whether that void leaves nothing open: nothing was sent since the restore of what isn't
    known.
    """
    return bool(call("SELECT clearing_is_settled(%s)", [clearing_id])[0][0])


def done_since_restore(clearing_id: int) -> list[int]:
    """The primary keys of the operations that were done since the restore: no void from before has
    named their bookings.
    """
    return [row[0] for row in call("SELECT clearing_done_since_restore(%s)", [clearing_id])]


def expire(limit: int) -> int:
    """Ends interventions that nobody approved in time. Returns how many."""
    return len(call("SELECT clearing_expire(%s)", [limit]))


@dataclass(frozen=True, slots=True)
class Waiting:
    """An order that has waited long for a person."""

    order_id: str
    direction: str
    error_code: str
    step: int
    waiting_seconds: float


def remind(*, limit: int, window: int) -> list[Waiting]:
    """Orders that people are to be reminded of, CLOSE first, marked as reminded."""
    return [Waiting(*row) for row in call("SELECT * FROM clearing_remind(%s, %s, %s)", [settings.PARKED_REMINDER_SECONDS, limit, window])]


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
    """Orders that are unknown or pending for longer than people should hear of, CLOSE first, marked
    as reminded.
    """
    return [Unknown(*row) for row in call("SELECT * FROM clearing_remind_unknown(%s, %s, %s)", [settings.PARKED_REMINDER_SECONDS, limit, window])]
