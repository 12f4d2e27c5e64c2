"""Whoever can write the database can't invent an order, nor lead one elsewhere: a worker signs for
what the counter wrote (design, rule 14).
"""

from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from base import metrics
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Clearing
from clearing.status import OperationState, State
from orders.intake.authentic import mac
from orders.intake.mapping import NewOrder
from tests.support.orders import World, new_order, operation
from tests.support.states import rewritable

KEY = "the counter's key of these tests, a"


@pytest.fixture(autouse=True)
def required(settings: Settings) -> None:
    settings.INTAKE_MAC, settings.INTAKE_KEYS, settings.INTAKE_MAC_SINCE = True, {"a": KEY}, None


def accepted(world: World, *, is_signed: bool = True, **changes: Any) -> Clearing:
    """An order of the counter's."""
    order = new_order("7", 7)
    order.kind = "EXCHANGE"
    if is_signed:
        row = NewOrder(**{name: getattr(order, name) for name in NewOrder.__struct_fields__})
        order.mac, order.mac_key_id = mac(row, KEY), "a"
    for name, value in changes.items():
        setattr(order, name, value)
    world._open([order])
    return Clearing.objects.get(order=order)


def alarms() -> float:
    return metrics.REGISTRY.get_sample_value("acceptance_alarms_total", {"code": "not_authentic"}) or 0


def test_an_order_of_the_counter_clears(world: World) -> None:
    clearing = world.run(accepted(world))

    assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])


@pytest.mark.parametrize(
    "changes",
    [
        {"is_signed": False},
        {"mac": "0" * 64},
        {"mac_key_id": "b"},
        {"user_id": "666"},
        {"quoted_usdt": 3_001},
        {"contract_id": "C666"},
        {"kind": "GIFT"},
        {"sequence": 8},
        {"instrument": "ETH-OPTION"},
        {"created_ms": 1},
    ],
    ids=str,
)
def test_one_that_somebody_wrote_into_the_database_parks_unsigned(world: World, changes: dict[str, Any]) -> None:
    before = alarms()

    clearing = world.run(accepted(world, **changes))

    assert (clearing.state, clearing.error_code, world.counterparties.applied) == (State.PARKED, "not_authentic", [])
    assert (operation(clearing, 1).state, alarms() - before) == (OperationState.UNKNOWN, 1)


def test_so_does_one_that_is_led_elsewhere_between_two_claims(world: World) -> None:
    clearing = accepted(world)
    world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.UNREACHABLE), times=9)
    clearing = world.run(clearing)
    assert clearing.step == 2
    with rewritable(), connection.cursor() as cursor:
        cursor.execute("UPDATE orders_syncorder SET mac = repeat('0', 64) WHERE id = %s", [clearing.order_id])

    clearing = world.when_due(clearing)

    assert (clearing.error_code, world.keys_applied(clearing)) == ("not_authentic", ["1"])


def test_where_no_mac_is_asked_for_none_is_needed(world: World, settings: Settings) -> None:
    settings.INTAKE_MAC = False

    assert world.run(accepted(world, is_signed=False)).state == State.CLEARED
