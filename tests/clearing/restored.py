"""A database that has forgotten what came after its backup, and an order that people voided in that
time.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from pytest_django import Settings

from base.clock import shift_clock
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import approve, request_approval
from clearing.models import Clearing, Intervention
from clearing.status import State
from clearing.store import recovery
from ops.recovery.voided import VoidReport, hold_all
from tests.clearing.people import ANN, BEN, LATER, REASON, K
from tests.support.orders import World

HOUR_MS = 3_600_000
NUMBER = 900_001
HELD = "voided_before_restore"
ORDER_ID = f"T{NUMBER:06d}"


def now_ms() -> int:
    return int(time.time() * 1000)


def to_the_end(world: World, clearing: Clearing) -> Clearing:
    """Runs it as often as it is handed back."""
    while world.run(clearing).state == State.QUEUED:
        pass
    return clearing


@contextmanager
def forgotten() -> Iterator[None]:
    """What happens in the block happens after the backup: the database forgets it, and is marked as
    restored.
    """
    backup = transaction.savepoint()
    yield
    transaction.savepoint_rollback(backup)
    recovery.mark_restored(now_ms() + HOUR_MS, reason="test", actor="test")


def tell(*order_ids: str) -> VoidReport:
    return hold_all(list(order_ids), actor="operator")


def parked_at_2(world: World, settings: Settings, created_ms: int) -> Clearing:
    """A CLOSE whose first step is done, and whose second surely isn't."""
    settings.CLEARING_ATTEMPTS_MAX = 1
    world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.UNREACHABLE), times=2)
    clearing = to_the_end(world, world.accept(direction="CLOSE", number=NUMBER, created_ms=created_ms))
    assert (clearing.state, clearing.step) == (State.PARKED, 2)
    return clearing


def void(clearing: Clearing) -> Intervention:
    pk = request_approval(clearing.pk, K.VOID, operator=ANN, reason=REASON)
    shift_clock(LATER)
    approve(pk, operator=BEN)
    shift_clock(0)
    return Intervention.objects.get(pk=pk)
