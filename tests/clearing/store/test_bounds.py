"""What an order, a user in a day, and all orders in a minute may move (design, rule 13)."""

from decimal import Decimal

import pytest
from pytest_django import Settings
from structlog.testing import capture_logs

from base.clock import shift_clock
from clearing.gateways import counterparty_state
from clearing.gateways.circuit_breaker import Guard
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing, CounterpartyStateChange, Pause, StartedUsdt, UserDay
from clearing.status import InterventionKind, State
from clearing.store import bounds, recovery
from clearing.store.interventions import NotPossible
from tests.clearing.people import done_by_two
from tests.support.orders import World

K = InterventionKind
HELD = (State.PARKED, "limit_exceeded", "limit_exceeded", 1)


def found(clearing: Clearing) -> tuple[str, str, str, int]:
    clearing.refresh_from_db()
    return clearing.state, clearing.error_code, clearing.hold_code, clearing.step


class TestAnOrder:
    @pytest.fixture(autouse=True)
    def bound(self, settings: Settings) -> None:
        settings.CLEARING_ORDER_USDT_MAX = Decimal(3_000)

    def test_of_more_than_the_bound_is_held_before_its_first_step(self, world: World) -> None:
        clearing, refs = world.accept_with_refs("1001", quoted_usdt=Decimal("3000.000001"))

        assert found(clearing) == HELD
        world.runner().run(clearing.pk, clearing.epoch)
        assert (world.counterparties.applied, [ref for ref in refs if not ref.epoch]) == ([], [])

    @pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
    def test_two_operators_release_it_and_one_can_not(self, world: World, direction: str) -> None:
        clearing = world.accept(quoted_usdt=Decimal("3000.000001"), quantity=Decimal("0.05"), direction=direction)
        with pytest.raises(NotPossible, match="a second operator has to approve"):
            retry_by_hand(clearing.pk, actor="ann", reason="it is fine")

        done_by_two(clearing, K.RELEASE_HOLD)
        world.run(clearing)

        assert clearing.state == State.CLEARED

    def test_of_the_bound_itself_goes_on(self, world: World) -> None:
        assert world.run(world.accept()).state == State.CLEARED

    def test_off_is_off(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ORDER_USDT_MAX = settings.CLEARING_USER_USDT_PER_DAY_MAX = Decimal(0)

        assert world.accept(quoted_usdt=Decimal(10) ** 17).state == State.QUEUED

    def test_the_user_s_next_order_does_not_wait_for_it(self, world: World) -> None:
        world.accept(quoted_usdt=Decimal(3_001))

        assert world.run(world.accept()).state == State.CLEARED

    def test_is_told_of_at_once(self, world: World, transactional_db: None) -> None:
        with capture_logs() as logged:
            clearing = world.accept(quoted_usdt=Decimal(3_001))

        [told] = [line for line in logged if line.get("alarm") == "parked"]
        assert (told["order_id"], told["error_code"], told["quoted_usdt"]) == (clearing.order.order_id, "limit_exceeded", 3_001)


class TestAUsersDay:
    @pytest.fixture(autouse=True)
    def bound(self, settings: Settings) -> None:
        settings.CLEARING_USER_USDT_PER_DAY_MAX = Decimal(7_000)

    def test_what_lies_beyond_the_bound_is_held(self, world: World) -> None:
        orders = [world.accept("1001") for _ in range(3)]
        of_another = world.accept("1002")

        assert [found(order)[1] for order in orders] == ["", "", "limit_exceeded"]
        assert found(orders[2]) == HELD
        assert of_another.state == State.QUEUED

    def test_of_one_batch_the_first_ones_go_on(self, world: World) -> None:
        clearings, _ = world.accept_together(*[("1001", f"C{n}", 1_700_000_000_000 + n) for n in range(4)], ("1002", "C9", 1_700_000_000_000))

        assert [found(one)[1] for one in clearings] == ["", "", "limit_exceeded", "limit_exceeded", ""]
        assert UserDay.objects.get(user_id="1001").usdt == 12_000

    def test_the_next_day_begins_anew(self, world: World) -> None:
        for _ in range(3):
            world.accept("1001")

        shift_clock(24 * 3600)
        clearing = world.accept("1001")
        shift_clock(0)

        assert found(clearing)[1] == ""
        assert UserDay.objects.get().usdt == 3_000

    def test_what_the_bound_of_one_order_has_parked_does_not_count(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ORDER_USDT_MAX = Decimal(5_000)
        world.accept("1001", quoted_usdt=Decimal(10) ** 9)

        assert found(world.accept("1001"))[1] == ""

    def test_what_comes_again_after_a_restore_is_not_counted_twice(self, world: World) -> None:
        for _ in range(3):
            clearing, _ = world.accept_with_refs("1001", restored=True)

        assert found(clearing)[1] == ""
        assert not UserDay.objects.exists()

    def test_two_operators_release_it(self, world: World) -> None:
        orders = [world.accept("1001") for _ in range(3)]
        world.run(orders[0])
        world.run(orders[1])

        world.run(done_by_two(orders[2], K.RELEASE_HOLD))

        assert orders[2].state == State.CLEARED

    def test_off_is_off_and_writes_nothing(self, world: World, settings: Settings) -> None:
        settings.CLEARING_USER_USDT_PER_DAY_MAX = Decimal(0)

        assert {found(world.accept("1001"))[1] for _ in range(4)} == {""}
        assert not UserDay.objects.exists()


class TestAMinute:
    """Summed by the leader; shows as `retrying` with its cause, and parks nothing."""

    @pytest.fixture(autouse=True)
    def bound(self, world: World, settings: Settings) -> None:
        settings.CLEARING_USDT_PER_MINUTE_MAX = Decimal(5_000)
        bounds.bound_minute("test")  # the first pass begins to count

    def passes(self, seconds: float = 1.0) -> bounds.Minute:
        """The leader's pass, so much later."""
        shift_clock(seconds)
        try:
            return bounds.bound_minute("test")
        finally:
            shift_clock(0)

    def cleared(self, world: World, times: int) -> None:
        for _ in range(times):
            assert world.run(world.accept()).state == State.CLEARED

    def fresh(self, world: World) -> World:
        """A process that has just read how the counterparties stand."""
        world.guard = Guard(lambda: "test-worker")
        return world

    def test_within_the_bound_nothing_happens(self, world: World) -> None:
        self.cleared(world, 1)

        assert self.passes() == bounds.Minute(Decimal(3_000), "")
        assert not Pause.objects.exists()

    def test_beyond_it_new_orders_wait_and_say_why(self, world: World) -> None:
        self.cleared(world, 2)
        assert self.passes() == bounds.Minute(Decimal(6_000), "paused")

        clearing = self.fresh(world).run(world.accept())

        assert (clearing.state, clearing.error_code, clearing.attempts) == (State.RETRYING, "usdt_per_minute_exceeded", 0)
        assert world.keys_applied(clearing) == []
        assert CounterpartyStateChange.objects.get().reason == "6000.00 USDT in a minute, and the bound is 5000"

    def test_what_has_begun_goes_on(self, world: World) -> None:
        self.cleared(world, 2)
        world.stopping = lambda: len(world.counterparties.applied) == 9
        begun = world.run(world.accept())
        world.stopping = lambda: False
        assert begun.step == 2
        self.passes()

        assert self.fresh(world).run(begun).state == State.CLEARED

    def test_when_the_sum_has_fallen_they_go_on(self, world: World) -> None:
        self.cleared(world, 2)
        self.passes()
        clearing = self.fresh(world).run(world.accept())
        assert clearing.pk not in recovery.due({}, 100, paused=counterparty_state.read().paused)

        assert self.passes(30) == bounds.Minute(Decimal(6_000), "")
        assert self.passes(62) == bounds.Minute(Decimal(0), "resumed")

        assert self.fresh(world).when_due(clearing).state == State.CLEARED

    def test_each_is_counted_once(self, world: World) -> None:
        self.cleared(world, 1)

        assert [self.passes(seconds).usdt for seconds in (1, 2, 3)] == [3_000] * 3

    def test_an_operator_s_own_pause_stays(self, world: World) -> None:
        counterparty_state.set_pause("counter", 1, paused=True, reason="their release", actor="ann")

        assert self.passes(62).changed == ""
        assert Pause.objects.get().actor == "ann"

    def test_off_lets_them_go_on(self, world: World, settings: Settings) -> None:
        self.cleared(world, 2)
        self.passes()
        settings.CLEARING_USDT_PER_MINUTE_MAX = Decimal(0)

        assert self.passes(2).changed == "resumed"
        assert not Pause.objects.exists()

    def test_what_is_kept_is_a_minute_long(self, world: World) -> None:
        for second in range(1, 70):
            self.passes(second)

        assert StartedUsdt.objects.count() <= 61
