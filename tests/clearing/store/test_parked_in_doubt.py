"""What the audit reads of an order's life: when it was parked, and whether a call of its step could
still be applied then.
"""

from pytest_django import Settings

from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Clearing
from clearing.status import InterventionKind, State
from clearing.store import claims
from ops.audit.database import read_orders
from ops.audit.facts import HeldOrder
from tests.clearing.people import done_by_two
from tests.support.orders import World


def read(clearing: Clearing) -> HeldOrder:
    assert clearing.state == State.PARKED
    return read_orders()[clearing.order.order_id]


def test_a_key_that_is_too_old_leaves_a_doubt_about_its_step(busy_world: World, settings: Settings) -> None:
    busy_world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.RESET))
    clearing = busy_world.run(busy_world.accept())
    settings.KEY_RETENTION_SECONDS = -1

    found = read(busy_world.when_due(clearing))

    assert found.in_doubt == {f"{found.order_id}:2"}
    assert len(found.parked) == 1


def test_a_rejection_leaves_none(busy_world: World) -> None:
    busy_world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))

    found = read(busy_world.run(busy_world.accept()))

    assert found.in_doubt == frozenset()
    assert len(found.parked) == 1


def test_nor_does_an_earlier_step_that_became_known(busy_world: World) -> None:
    busy_world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
    busy_world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
    clearing = busy_world.run(busy_world.accept())

    assert read(busy_world.when_due(clearing)).in_doubt == frozenset()


def test_nor_one_that_was_sent_again_after_it_had_been_parked(busy_world: World) -> None:
    busy_world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.RESET))
    clearing = busy_world.run(busy_world.accept())
    claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
    assert read(busy_world.when_due(clearing)).in_doubt == {f"{clearing.order.order_id}:2"}

    busy_world.run(done_by_two(clearing, InterventionKind.RELEASE_HOLD))

    assert clearing.state == State.CLEARED
    assert read_orders()[clearing.order.order_id].in_doubt == frozenset()
