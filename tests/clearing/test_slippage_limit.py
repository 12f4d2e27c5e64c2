"""An execution far off the quote parks the order after its step, once it is recorded; a person lets it go on."""

from decimal import Decimal

import pytest
from pytest_django import Settings

from clearing.interventions import retry_by_hand
from clearing.status import OperationState, State
from tests.support.orders import World, operation


@pytest.fixture(autouse=True)
def limit(settings: Settings) -> None:
    settings.CLEARING_MAX_SLIPPAGE_BPS = Decimal(100)  # one percent; the quote is 60,000


@pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
@pytest.mark.parametrize("price", [54_000, 66_000])
def test_a_price_outside_parks_it_before_the_next_step(world: World, direction: str, price: int) -> None:
    world.counterparties.prices["BTC"] = Decimal(price)

    clearing = world.run(world.accept(direction=direction))

    assert (clearing.state, clearing.error_code, clearing.step) == (State.PARKED, "slippage_exceeded", 4)
    assert operation(clearing, 3).state == OperationState.DONE
    assert operation(clearing, 4).state == OperationState.PLANNED
    assert world.keys_applied(clearing) == ["1", "2", "3"]


def test_a_retry_goes_on_to_the_fourth_step(world: World) -> None:
    world.counterparties.prices["BTC"] = Decimal(54_000)
    clearing = world.run(world.accept())

    retry_by_hand(clearing.pk, actor="ann", reason="the desk takes it")
    world.run(clearing)

    assert clearing.state == State.CLEARED
    assert world.keys_applied(clearing) == ["1", "2", "3", "4"]


def test_the_users_next_order_does_not_wait_for_it(world: World) -> None:
    world.counterparties.prices["BTC"] = Decimal(54_000)
    _first, second = world.run(world.accept()), world.accept()

    assert second.state == State.QUEUED


@pytest.mark.parametrize("price", [59_500, 60_500])
def test_a_price_inside_is_fine(world: World, price: int) -> None:
    world.counterparties.prices["BTC"] = Decimal(price)

    assert world.run(world.accept()).state == State.CLEARED


def test_off_means_off(world: World, settings: Settings) -> None:
    settings.CLEARING_MAX_SLIPPAGE_BPS = Decimal(0)
    world.counterparties.prices["BTC"] = Decimal(10_000)

    assert world.run(world.accept()).state == State.CLEARED
