"""One clearing, run by a worker against counterparties in memory: what becomes of it by each class
of answer.
"""

from decimal import Decimal

import pytest
from pytest_django import Settings

from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.status import OperationState, State
from tests.support.orders import World, operation, outcomes

TIMEOUT = Fault(kind=FaultKind.APPLY_THEN_TIMEOUT)
RESET = Fault(kind=FaultKind.RESET)
UNREACHABLE = Fault(kind=FaultKind.UNREACHABLE)


class TestUnknownOutcome:
    @pytest.mark.parametrize("action", [Action.ADJUST, Action.TRANSFER, Action.EXCHANGE])
    def test_an_effect_whose_answer_was_lost_is_found_by_asking(self, world: World, action: Action) -> None:
        world.counterparties.script(action, TIMEOUT)
        clearing = world.run(world.accept())
        assert clearing.state == State.UNKNOWN

        world.when_due(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert [outcome for _, outcome, _ in outcomes(clearing)].count("?done") == 1

    def test_a_key_that_is_not_known_is_sent_again_with_the_same_bytes(self, world: World) -> None:
        world.counterparties.script(Action.TRANSFER, RESET)
        clearing = world.run(world.accept())
        request = bytes(operation(clearing, 2).request)

        world.when_due(clearing)

        assert clearing.state == State.CLEARED
        assert bytes(operation(clearing, 2).request) == request
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert outcomes(clearing)[1:4] == [(2, "unknown", "connection_lost"), (2, "?retryable", "unknown_key"), (2, "done", "")]

    def test_a_question_without_an_answer_leaves_it_unknown(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, TIMEOUT)
        world.counterparties.script("status", UNREACHABLE)
        clearing = world.run(world.accept())

        world.when_due(clearing)

        assert clearing.state == State.UNKNOWN
        assert world.keys_applied(clearing) == ["1"]

    def test_a_refused_connection_after_a_lost_answer_is_not_taken_for_a_sure_failure(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, RESET)
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=2)
        clearing = world.run(world.accept())

        world.when_due(clearing)

        assert clearing.state == State.UNKNOWN
        assert operation(clearing, 1).state == OperationState.UNKNOWN

    def test_it_is_never_parked_for_its_age_alone(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ATTEMPTS_MAX = 2
        world.counterparties.script(Action.ADJUST, RESET, times=6)
        clearing = world.run(world.accept())

        for _ in range(4):
            world.when_due(clearing)

        assert clearing.state == State.UNKNOWN

    def test_a_key_older_than_its_retention_is_never_sent_again(self, world: World, settings: Settings) -> None:
        world.counterparties.script(Action.ADJUST, RESET)
        clearing = world.run(world.accept())
        settings.KEY_RETENTION_SECONDS = 60
        clearing.operations.update(first_sent_at=operation(clearing, 1).first_sent_at.replace(year=2020))  # type: ignore[union-attr]

        world.when_due(clearing)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "key_expired")
        assert world.keys_applied(clearing) == []

    def test_a_counterparty_that_is_still_at_it_is_asked_later(self, world: World) -> None:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.IN_PROGRESS, latency_ms=0))
        clearing = world.run(world.accept())
        assert clearing.state == State.PENDING

        world.when_due(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]


class TestSureFailure:
    def test_the_first_one_is_tried_again_in_place(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, UNREACHABLE)

        clearing = world.run(world.accept())

        assert clearing.state == State.CLEARED
        assert outcomes(clearing)[:2] == [(1, "retryable", "connection_refused"), (1, "done", "")]

    def test_the_next_one_waits(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=2)

        clearing = world.run(world.accept())

        assert clearing.state == State.RETRYING
        assert clearing.due_at is not None
        assert operation(clearing, 1).state == OperationState.PLANNED

    def test_attempts_used_up_park_the_order(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ATTEMPTS_MAX = 2
        world.counterparties.script(Action.ADJUST, UNREACHABLE, times=20)
        clearing = world.run(world.accept())

        world.when_due(clearing)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "connection_refused")

    def test_what_is_not_the_orders_fault_costs_it_no_attempt(self, world: World, settings: Settings) -> None:
        settings.CLEARING_ATTEMPTS_MAX = 1
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.STATUS, status=429, code="too_many_requests", latency_ms=1_000), times=3)

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.attempts) == (State.RETRYING, 0)

    def test_a_counterpartys_retry_after_is_obeyed(self, world: World) -> None:
        fault = Fault(kind=FaultKind.STATUS, status=429, code="too_many_requests", latency_ms=60_000)
        world.counterparties.script(Action.ADJUST, fault)

        clearing = world.run(world.accept())

        assert clearing.due_at is not None
        assert (clearing.due_at - clearing.changed_at).total_seconds() >= 59


class TestRejection:
    def test_a_final_rejection_parks_the_order_and_the_lane_goes_on(self, world: World) -> None:
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE, code="insufficient_funds"))
        rejected, next_one = world.accept(), world.accept()

        world.run(rejected)

        next_one.refresh_from_db()
        assert (rejected.state, rejected.error_code) == (State.PARKED, "insufficient_funds")
        assert operation(rejected, 2).state == OperationState.REJECTED
        assert next_one.state == State.CLEARED

    def test_orders_of_the_parked_ones_contract_wait_for_it(self, world: World) -> None:
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.REFUSE))
        opening = world.accept(contract_id="K1")
        closing, other = world.accept(contract_id="K1", direction="CLOSE"), world.accept(contract_id="K2")

        world.run(opening)

        closing.refresh_from_db()
        other.refresh_from_db()
        assert (opening.state, closing.state, other.state) == (State.PARKED, State.WAITING, State.CLEARED)

    def test_a_key_known_with_other_bytes_parks_the_order(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.STATUS, status=422, code="key_reused"))

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.error_code) == (State.PARKED, "key_reused")


class TestPartialExecution:
    def test_the_remainder_is_executed_by_further_operations(self, world: World) -> None:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")))

        clearing = world.run(world.accept())

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "3.2", "4"]
        assert world.counterparties.applied[-1].request["amount"] == "0.05"

    def test_what_is_left_after_three_parts_parks_the_order(self, world: World) -> None:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")), times=3)

        clearing = world.run(world.accept())

        assert (clearing.state, clearing.error_code) == (State.PARKED, "partial_execution")
        assert world.keys_applied(clearing) == ["1", "2", "3", "3.2", "3.3"]
