"""An execution far off the quote parks the order after its step, once it is recorded; a person lets
it go on.
"""

from decimal import Decimal

import pytest
from pytest_django import Settings

from base.clock import shift_clock
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.case import load
from clearing.interventions.requests import approve, consequences_of, request_approval, retry_by_hand
from clearing.models import Clearing
from clearing.status import InterventionKind, OperationState, State
from clearing.store.interventions import Operator, OutsideEvidence
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


class TestConfirmedByPeople:
    """The exchange was made, people say, and at what price."""

    @pytest.fixture
    def unknown(self, world: World) -> Clearing:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.RESET))
        return world.run(world.accept())

    def confirmed(self, clearing: Clearing, bought: str) -> Clearing:
        evidence = OutsideEvidence("phone-17", amount=Decimal(3_000), bought=Decimal(bought))
        pk = request_approval(clearing.pk, InterventionKind.CONFIRM_DONE, operator=Operator("ann", 1), reason="said so by phone", evidence=evidence)
        shift_clock(120)  # beyond any request that may be on its way
        approve(pk, operator=Operator("ben", 2))
        shift_clock(0)
        clearing.refresh_from_db()
        return clearing

    @pytest.mark.parametrize("bought", ["0.045", "0.055"])
    def test_a_price_outside_parks_it_too(self, unknown: Clearing, bought: str) -> None:
        clearing = self.confirmed(unknown, bought)

        assert (clearing.state, clearing.error_code, clearing.step) == (State.PARKED, "slippage_exceeded", 4)
        assert [operation(clearing, step).state for step in (3, 4)] == [OperationState.DONE, OperationState.PLANNED]

    def test_and_a_retry_goes_on_to_the_fourth_step(self, world: World, unknown: Clearing) -> None:
        clearing = self.confirmed(unknown, "0.045")

        retry_by_hand(clearing.pk, actor="ann", reason="the desk takes it")
        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "4"]

    def test_a_price_inside_goes_on(self, unknown: Clearing) -> None:
        assert self.confirmed(unknown, "0.0501").state == State.QUEUED

    def test_both_people_read_so_beforehand(self, unknown: Clearing) -> None:
        evidence = OutsideEvidence("phone-17", amount=Decimal(3_000), bought=Decimal("0.045"))

        consequences = consequences_of(load(unknown.pk), InterventionKind.CONFIRM_DONE, evidence)

        assert consequences.text == "Step 3 counts as done; the order stays parked (slippage_exceeded)."
        assert {line.what: (line.asked, line.said, line.remark) for line in consequences.lines[:3]} == {
            "Sold": ("3000 USDT", "3000 USDT", "all"),
            "Bought": ("0.05 BTC at the quote", "0.045 BTC", "-0.005 BTC"),
            "Price": ("60000 USDT per BTC quoted", "66666.67 USDT per BTC", "-1000 bps for the exchange"),
        }
        assert consequences.next_call.startswith("Step 4 sends a transfer of 0.045 BTC from fund to system, to fund under the key ")


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
    world.counterparties.prices["BTC"] = Decimal(51_000)  # within the hard bound, which can't be off

    assert world.run(world.accept()).state == State.CLEARED
