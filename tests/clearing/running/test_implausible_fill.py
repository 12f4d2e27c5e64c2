"""A fill that no market gives is done and recorded, and the order parks before the next call: one
operator can't let it go on, two can (design, rule 13).
"""

from decimal import Decimal

import pytest
from pytest_django import Settings

from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.case import load
from clearing.interventions.requests import consequences_of, retry_by_hand
from clearing.models import Clearing
from clearing.status import InterventionKind, OperationState, State
from clearing.store import claims
from clearing.store.interventions import NotPossible
from tests.clearing.people import done_by_two
from tests.support.orders import World, operation

K = InterventionKind


def absurd(world: World, factor: str, direction: str = "OPEN") -> Clearing:
    world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.ABSURD_PRICE, factor=Decimal(factor)))
    return world.run(world.accept(direction=direction))


@pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
@pytest.mark.parametrize("factor", ["0.0001", "0.7", "1.4", "1000"])
def test_parks_the_order_before_the_fourth_step(world: World, direction: str, factor: str) -> None:
    clearing = absurd(world, factor, direction)

    assert (clearing.state, clearing.error_code, clearing.hold_code, clearing.step) == (State.PARKED, "implausible_fill", "implausible_fill", 4)
    assert operation(clearing, 3).state == OperationState.DONE
    assert operation(clearing, 4).state == OperationState.PLANNED
    assert world.keys_applied(clearing) == ["1", "2", "3"]


def test_a_price_within_the_bound_is_none_of_it(world: World) -> None:
    assert absurd(world, "1.01").state == State.CLEARED


def test_one_operator_can_not_let_it_go_on(world: World) -> None:
    clearing = absurd(world, "1000")

    with pytest.raises(NotPossible, match="a second operator has to approve"):
        retry_by_hand(clearing.pk, actor="ann", reason="they say that it is right")


def test_two_can(world: World) -> None:
    clearing = absurd(world, "0.001")

    done_by_two(clearing, K.RELEASE_HOLD)
    world.run(clearing)

    assert clearing.state == State.CLEARED
    assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
    assert (clearing.slippage_usdt, clearing.surplus, clearing.dust) == (Decimal(2_997_000), Decimal("49.95"), Decimal(0))


def test_they_read_what_was_bought_and_what_will_be_sent(world: World) -> None:
    clearing = absurd(world, "0.001")

    read = consequences_of(load(clearing.pk), K.RELEASE_HOLD, None)  # type: ignore[arg-type]  # no evidence goes with a release

    [fill] = read.lines
    assert fill.said == ("3000 USDT sold, 50 BTC bought; +49.95 BTC against what is owed; slippage +2997000 USDT, +9990000 bps of the quote")
    assert read.next_call.startswith("Step 4 sends a transfer of 50 BTC from fund to system, to fund under the key ")
    assert '"amount": "50"' in read.next_request


def test_of_a_part_parks_it_before_the_next_part(world: World) -> None:
    world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")))
    world.counterparties.prices["BTC"] = Decimal(600)
    clearing = world.run(world.accept())
    world.counterparties.prices["BTC"] = Decimal(60_000)

    assert (clearing.error_code, clearing.step, operation(clearing, 3).part) == ("implausible_fill", 3, 2)
    done_by_two(clearing, K.RELEASE_HOLD)
    world.run(clearing)

    assert (clearing.state, clearing.error_code) == (State.PARKED, "slippage_exceeded")  # all parts together


def test_of_the_last_part_that_may_follow_is_held_too(world: World, settings: Settings) -> None:
    settings.CLEARING_PARTS_MAX = 1
    world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")))
    world.counterparties.prices["BTC"] = Decimal(600)
    clearing = world.run(world.accept())

    assert (clearing.error_code, clearing.hold_code, operation(clearing, 3).state) == ("implausible_fill", "implausible_fill", OperationState.DONE)
    done_by_two(clearing, K.RELEASE_HOLD)

    assert (clearing.state, clearing.hold_code) == (State.PARKED, "")  # a further part is a retry's


class TestBesideAnotherHold:
    """Who releases the other one hasn't looked at the fill."""

    def test_that_comes_after_it(self, world: World) -> None:
        clearing = absurd(world, "1000")
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        clearing.refresh_from_db()
        assert (clearing.hold_code, clearing.error_code) == ("contents_differ", "implausible_fill")

        done_by_two(clearing, K.RELEASE_HOLD)

        assert (clearing.state, clearing.hold_code, clearing.error_code) == (State.PARKED, "implausible_fill", "implausible_fill")
        done_by_two(clearing, K.RELEASE_HOLD)
        assert clearing.state == State.QUEUED

    def test_that_was_there_before(self, world: World) -> None:
        clearing = world.accept()
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.ABSURD_PRICE))
        gateways = world.counterparties.gateways()

        class HoldsMeanwhile:
            def __getattr__(self, name: str) -> object:
                return getattr(gateways, name)

            def perform(self, stored: object, clock: object) -> object:
                if ":3" in stored.key:  # type: ignore[attr-defined]
                    claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
                return gateways.perform(stored, clock)  # type: ignore[arg-type]

        runner = world.runner()
        object.__setattr__(runner, "gateways", HoldsMeanwhile())
        runner.run(clearing.pk, clearing.epoch)
        clearing.refresh_from_db()

        assert (clearing.hold_code, clearing.error_code) == ("contents_differ", "implausible_fill")
        done_by_two(clearing, K.RELEASE_HOLD)
        assert (clearing.state, clearing.hold_code) == (State.PARKED, "implausible_fill")


class TestSlippageOfALargeOrder:
    @pytest.fixture(autouse=True)
    def two_from(self, settings: Settings) -> None:
        settings.CLEARING_SLIPPAGE_TWO_OPERATORS_USDT = Decimal("2999.99")

    def test_takes_two_operators(self, world: World) -> None:
        clearing = absurd(world, "1.1")
        assert (clearing.error_code, clearing.hold_code) == ("slippage_exceeded", "slippage_exceeded")

        with pytest.raises(NotPossible, match="of an order of this size"):
            retry_by_hand(clearing.pk, actor="ann", reason="the desk takes it")
        done_by_two(clearing, K.RELEASE_HOLD)
        world.run(clearing)

        assert clearing.state == State.CLEARED

    def test_of_a_smaller_one_a_retry(self, world: World, settings: Settings) -> None:
        settings.CLEARING_SLIPPAGE_TWO_OPERATORS_USDT = Decimal(3_000)
        clearing = absurd(world, "1.1")

        retry_by_hand(clearing.pk, actor="ann", reason="the desk takes it")
        world.run(clearing)

        assert clearing.state == State.CLEARED


def test_a_fill_that_no_column_can_hold_clears_all_the_same(world: World) -> None:
    """The order could never be finished: its slippage doesn't fit `numeric(36, 8)`."""
    world.counterparties.prices["BTC"] = Decimal("0.00000000000001")
    clearing = world.run(world.accept(quantity=Decimal("0.00000001"), quoted_usdt=Decimal(9_000)))
    assert clearing.error_code == "implausible_fill"

    done_by_two(clearing, K.RELEASE_HOLD)
    world.run(clearing)

    assert (clearing.state, clearing.slippage_usdt) == (State.CLEARED, None)
