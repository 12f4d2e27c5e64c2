from decimal import Decimal
from itertools import count

import pytest

from clearing.gateways import Action, Exchanged, Retryable, StillPending, UnknownOutcome
from clearing.gateways.fake import FakeCounterparties, Fault, FaultKind
from tests.gateways.sides import FakeSide, WallClock

NOW = WallClock()


class TestScript:
    def test_hits_so_many_calls(self) -> None:
        side = FakeSide()
        order = side.place()
        side.goes_wrong(Action.TRANSFER, "reset", order, times=2)

        for _ in range(2):
            with pytest.raises(UnknownOutcome):
                side.gateways.perform(order.transfer(), NOW)

        assert side.gateways.perform(order.transfer(), NOW).result.reference

    def test_hits_only_its_operation_and_orders(self) -> None:
        side = FakeSide()
        order, other = side.place(), side.place()
        side.goes_wrong(Action.TRANSFER, "reset", order)

        side.gateways.perform(order.exchange(), NOW)
        side.gateways.perform(other.transfer(), NOW)

        with pytest.raises(UnknownOutcome):
            side.gateways.perform(order.transfer(), NOW)

    def test_may_hit_everything(self) -> None:
        side = FakeSide()
        order = side.place()
        side.counterparties.script("*", Fault(kind=FaultKind.UNREACHABLE), times=2)

        with pytest.raises(Retryable):
            side.gateways.perform(order.adjustment(), NOW)
        with pytest.raises(UnknownOutcome):
            side.gateways.query(order.adjustment(), NOW)


class TestFakeCounterparties:
    def test_remember_every_effect(self) -> None:
        side = FakeSide()
        order = side.place()

        done = side.gateways.perform(order.transfer("12.5"), NOW)

        [effect] = side.counterparties.applied
        assert (effect.action, effect.key, effect.order_id) == (Action.TRANSFER, f"{order.order_id}:2", order.order_id)
        assert effect.request["amount"] == effect.result["amount"] == "12.5"
        assert effect.result["reference"] == done.result.reference

    def test_exchange_at_the_price_that_a_test_sets(self) -> None:
        side = FakeSide()
        side.counterparties.prices["BTC"] = Decimal(30_000)

        result = side.gateways.perform(side.place().exchange("100"), NOW).result

        assert isinstance(result, Exchanged)
        assert (result.price, result.bought) == (Decimal(30_000), Decimal("0.00333333"))

    def test_finish_what_is_in_progress_by_the_clock_that_they_are_given(self) -> None:
        ticks = count(NOW.timestamp_ms(), 10)
        counterparties = FakeCounterparties(clock_ms=lambda: next(ticks))
        order = FakeSide().place()
        counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.IN_PROGRESS, latency_ms=50))
        doors = counterparties.gateways()

        with pytest.raises(StillPending):
            doors.perform(order.transfer(), NOW)
        assert counterparties.applied == []
        for _ in range(5):
            next(ticks)

        assert doors.query(order.transfer(), NOW) is not None
        assert len(counterparties.applied) == 1
