"""One user's orders one after another, and every reason for which another order may go first."""

from dataclasses import replace

from ops.audit.facts import Effect, HeldOrder
from ops.audit.lanes import out_of_order

OLD = HeldOrder(
    order_id="old",
    user_id="1001",
    contract_id="c-1",
    place=(100, 0, 1),
    state="cleared",
    late=False,
    accepted_ms=110,
    started_ms=120,
    cleared_ms=190,
    slippage_usdt=None,
    promoted_ms=115,
)
NEW = replace(OLD, order_id="new", contract_id="c-2", place=(200, 0, 2), accepted_ms=210, started_ms=220, cleared_ms=290, promoted_ms=215)


def applied(*runs: tuple[HeldOrder, str]) -> list[Effect]:
    """Effects in the order of application: (order, its steps)."""
    return [Effect(order.order_id, order.user_id, f"{order.order_id}:{step}") for order, steps in runs for step in steps]


def breaches(orders: list[HeldOrder], effects: list[Effect]) -> list[str]:
    return [str(breach) for breach in out_of_order({order.order_id: order for order in orders}, effects)]


class TestInterrupted:
    def test_one_after_another_is_right(self) -> None:
        assert breaches([OLD, NEW], applied((OLD, "1234"), (NEW, "1234"))) == []

    def test_another_one_in_between_is_not(self) -> None:
        assert breaches([OLD, NEW], applied((OLD, "12"), (NEW, "1234"), (OLD, "34"))) == ["old was interrupted by new"]

    def test_unless_the_first_was_parked(self) -> None:
        parked = replace(OLD, parked=((150, 300),))

        assert breaches([parked, NEW], applied((OLD, "12"), (NEW, "1234"), (OLD, "34"))) == []

    def test_being_parked_once_excuses_one_interruption(self) -> None:
        parked, third = replace(OLD, parked=((150, 300),)), replace(NEW, order_id="third", place=(300, 0, 3), promoted_ms=315)

        found = breaches([parked, NEW, third], applied((OLD, "1"), (NEW, "1234"), (OLD, "2"), (third, "1234"), (OLD, "34")))

        assert found == ["old was interrupted by third"]

    def test_one_that_never_came_back_must_have_been_parked_too(self) -> None:
        assert breaches([OLD, NEW], applied((OLD, "12"), (NEW, "1234"))) == ["old was interrupted by new"]

    def test_other_users_never_matter(self) -> None:
        other = replace(NEW, user_id="1002")

        assert breaches([OLD, other], applied((OLD, "12"), (other, "1234"), (OLD, "34"))) == []


class TestRequestsStillOnTheirWay:
    """An order that was parked while a call of step 2 could still be applied, which it then is
    while the next one clears.
    """

    PARKED = replace(OLD, parked=((150, 300),), in_doubt=frozenset({"old:2"}))
    LATE = applied((OLD, "1"), (NEW, "123"), (OLD, "2"), (NEW, "4"), (OLD, "34"))

    def test_neither_of_the_two_was_interrupted(self) -> None:
        assert breaches([self.PARKED, NEW], self.LATE) == []

    def test_each_was_without_the_doubt(self) -> None:
        certain = replace(self.PARKED, in_doubt=frozenset())

        assert breaches([certain, NEW], self.LATE) == ["old was interrupted by new", "new was interrupted by old"]

    def test_only_a_call_of_the_step_in_doubt(self) -> None:
        other = applied((OLD, "12"), (NEW, "123"), (OLD, "3"), (NEW, "4"), (OLD, "4"))

        assert breaches([self.PARKED, NEW], other) == ["old was interrupted by new", "new was interrupted by old"]

    def test_only_where_it_stands_alone(self) -> None:
        going_on = applied((OLD, "1"), (NEW, "123"), (OLD, "23"), (NEW, "4"), (OLD, "4"))

        assert breaches([self.PARKED, NEW], going_on) == ["old was interrupted by new", "new was interrupted by old"]


class TestPassed:
    FIRST_NEW = applied((NEW, "1234"), (OLD, "1234"))

    def test_a_younger_one_first_is_wrong(self) -> None:
        assert breaches([OLD, NEW], self.FIRST_NEW) == ["old was passed by new"]

    def test_also_when_the_older_never_began(self) -> None:
        waiting = replace(OLD, state="waiting", started_ms=None, cleared_ms=None, promoted_ms=None)

        assert breaches([waiting, NEW], applied((NEW, "1234"))) == ["old was passed by new"]

    def test_also_when_the_older_was_late_and_came_before_the_younger_became_the_head(self) -> None:
        assert breaches([replace(OLD, late=True), NEW], self.FIRST_NEW) == ["old was passed by new"]

    def test_nor_when_it_was_accepted_after_the_younger_became_the_head(self) -> None:
        assert breaches([replace(OLD, accepted_ms=216), NEW], self.FIRST_NEW) == []

    def test_nor_when_it_was_parked_then(self) -> None:
        assert breaches([replace(OLD, parked=((120, 230),)), NEW], self.FIRST_NEW) == []
        assert breaches([replace(OLD, parked=((120, None),)), NEW], self.FIRST_NEW) == []

    def test_having_been_parked_before_is_no_excuse(self) -> None:
        assert breaches([replace(OLD, parked=((120, 130),)), NEW], self.FIRST_NEW) == ["old was passed by new"]

    def test_nor_when_it_waited_behind_a_parked_order_of_its_contract(self) -> None:
        parked = replace(OLD, order_id="older", place=(50, 0, 0), parked=((60, None),), state="parked", cleared_ms=None)

        assert breaches([parked, OLD, NEW], self.FIRST_NEW) == []

    def test_equal_times_go_by_shard_and_sequence(self) -> None:
        twin = replace(NEW, place=(100, 0, 2))

        assert breaches([OLD, twin], self.FIRST_NEW) == ["old was passed by new"]
        assert breaches([OLD, twin], applied((OLD, "1234"), (twin, "1234"))) == []

    def test_long_lanes_are_judged_pair_by_pair(self) -> None:
        lane = [replace(NEW, order_id=f"n{n}", place=(n, 0, n), accepted_ms=n, promoted_ms=n + 0.5) for n in range(300)]
        swapped = [*lane[:150], lane[151], lane[150], *lane[152:]]
        orders = [replace(order, accepted_ms=0) for order in lane]

        assert breaches(orders, applied(*((order, "1234") for order in swapped))) == ["n150 was passed by n151"]


class TestVoided:
    VOIDED = replace(OLD, state="voided", parked=((150, 160),), cleared_ms=None)

    def test_one_that_was_voided_before_a_younger_one_began_was_not_passed(self) -> None:
        assert breaches([self.VOIDED, NEW], applied((NEW, "1234"))) == []

    def test_one_that_was_passed_before_it_was_parked_and_voided_was(self) -> None:
        later = replace(self.VOIDED, parked=((300, 310),))

        assert breaches([later, NEW], applied((NEW, "1234"))) == ["old was passed by new"]

    def test_it_holds_back_its_contracts_orders_no_longer(self) -> None:
        sibling = replace(OLD, order_id="sibling", contract_id="c-1", place=(110, 0, 2), started_ms=400, promoted_ms=170)

        found = breaches([self.VOIDED, sibling, NEW], applied((NEW, "1234"), (sibling, "1234")))

        assert found == ["sibling was passed by new"]
