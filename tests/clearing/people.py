"""Two operators who request and approve interventions, and orders that need one."""

from django.db import connection
from pytest_django import Settings

from base.clock import shift_clock
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import approve, request_approval
from clearing.models import Clearing
from clearing.status import InterventionKind, State
from clearing.store import claims
from clearing.store.interventions import Operator, OutsideEvidence
from tests.support.orders import World, operation

ANN, BEN = Operator("ann", 1), Operator("ben", 2)
REASON = "the fund's people said so by phone"
BY_PHONE = OutsideEvidence(reference="phone-17", document="call of 10:32 with Ms. Wu, recorded as 4711")
K = InterventionKind
LATER = 120  # seconds: beyond any request that may be on its way


def asked(clearing: Clearing, kind: K, evidence: OutsideEvidence = BY_PHONE) -> int:
    return request_approval(clearing.pk, kind, operator=ANN, reason=REASON, evidence=evidence)


def done_by_two(clearing: Clearing, kind: K, evidence: OutsideEvidence = BY_PHONE, *, later: float = LATER) -> Clearing:
    """Asked for and approved, when no request is on its way any more."""
    pk = asked(clearing, kind, evidence)
    shift_clock(later)
    approve(pk, operator=BEN)
    shift_clock(0)
    clearing.refresh_from_db()
    return clearing


def held(world: World) -> Clearing:
    clearing = world.accept()
    claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
    clearing.refresh_from_db()
    return clearing


def unknown(world: World, action: Action = Action.TRANSFER, kind: FaultKind = FaultKind.RESET, direction: str = "OPEN") -> Clearing:
    """Its current operation was sent, and nobody knows what became of it."""
    world.counterparties.script(action, Fault(kind=kind))
    return world.run(world.accept(direction=direction))


def expired_key(world: World, settings: Settings, kind: FaultKind = FaultKind.RESET, action: Action = Action.TRANSFER) -> Clearing:
    """Parked: outcome unknown, and the key is too old to be asked for."""
    clearing = unknown(world, action, kind)
    settings.KEY_RETENTION_SECONDS = -1
    if kind != FaultKind.RESET:
        world.counterparties.script("status", Fault(kind=FaultKind.STATUS, status=404, code="unknown_key"))
    clearing = world.when_due(clearing)
    settings.KEY_RETENTION_SECONDS = 518_400
    assert (clearing.state, clearing.error_code) == (State.PARKED, "key_expired")
    return clearing


def rejected(world: World, action: Action = Action.TRANSFER, direction: str = "OPEN") -> Clearing:
    world.counterparties.script(action, Fault(kind=FaultKind.REFUSE))
    return world.run(world.accept(direction=direction))


def late_answer(clearing: Clearing) -> None:
    """A worker that had lost its claim long ago wakes up and records what it was answered."""
    found = operation(clearing, 2)
    connection.cursor().execute("SELECT clearing_record_attempt(%s, 1, 'w', false, 60000, 0, 'done', '', '', '{}')", [found.pk])


def mark_dead(name: str) -> None:
    """Declared dead after three seconds of silence, long before its claim ends."""
    sql = "INSERT INTO base_incarnation (name, role, host, pid, version, \"end\", ended_at) VALUES (%s, 'w', 'h', 1, '', 'dead', now())"
    with connection.cursor() as cursor:
        cursor.execute(sql, [name])
