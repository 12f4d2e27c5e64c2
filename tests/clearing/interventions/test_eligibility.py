"""What an operator may do, for every situation of an order: a table."""

from itertools import product

import pytest

from clearing.interventions.eligibility import Situation, obstacle, possible, query_obstacle, require, require_query
from clearing.status import InterventionKind, OperationState, State
from clearing.store.interventions import NotPossible

K, Op, S = InterventionKind, OperationState, State
LETTERS = {"R": K.RETRY, "H": K.RELEASE_HOLD, "D": K.CONFIRM_DONE, "N": K.CONFIRM_NOT_DONE, "V": K.VOID}
HOLDS = ("", "contents_differ", "voided_before_restore", "only_asked")
ERRORS = ("insufficient_funds", "internal_error", "key_expired", "key_reused")
FINAL_ERRORS = {"key_expired", "key_reused"}  # of its key: it can't be sent again

# What is possible at step 2 for an order that is not held, and for one that is; there is no retry
# where the error is one of the key's own. R: retry, H: release the hold, D: confirm as done, N:
# confirm as not done, V: void.
POSSIBLE = {
    (S.PARKED, Op.PLANNED): ("RDV", "HDV"),
    (S.PARKED, Op.OPEN): ("R", "H"),
    (S.PARKED, Op.PENDING): ("RDN", "HDN"),
    (S.PARKED, Op.UNKNOWN): ("RDN", "HDN"),
    (S.PARKED, Op.DONE): ("RV", "HV"),
    (S.PARKED, Op.REJECTED): ("RDV", "HDV"),
    **{(S.RETRYING, state): ("R", "") for state in Op},
    **{(S.PENDING, state): ("D", "D") for state in (Op.PLANNED, Op.REJECTED)},
    **{(S.PENDING, state): ("DN", "DN") for state in (Op.PENDING, Op.UNKNOWN)},
    **{(S.UNKNOWN, state): ("D", "D") for state in (Op.PLANNED, Op.REJECTED)},
    **{(S.UNKNOWN, state): ("DN", "DN") for state in (Op.PENDING, Op.UNKNOWN)},
}


def situation(**changed: object) -> Situation:
    """A parked order at step 2 whose operation was rejected, with these changes."""
    facts = {"state": S.PARKED, "step": 2, "operation_state": Op.REJECTED, "error_code": "insufficient_funds", "next_key": "O-1:2:r1", **changed}
    return Situation(**facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(("state", "operation_state"), list(product(S, Op)))
def test_what_is_possible(state: State, operation_state: OperationState) -> None:
    free, held = POSSIBLE.get((state, operation_state), ("", ""))
    for hold, error in product(HOLDS, ERRORS):
        expected = held if hold else free.replace("R", "") if error in FINAL_ERRORS else free

        found = possible(situation(state=state, operation_state=operation_state, hold_code=hold, error_code=error))

        assert found == [LETTERS[letter] for letter in expected], (hold, error)


@pytest.mark.parametrize(("state", "operation_state", "hold"), list(product(S, Op, HOLDS)))
def test_what_is_not_possible_is_refused_with_a_reason(state: State, operation_state: OperationState, hold: str) -> None:
    order = situation(state=state, operation_state=operation_state, hold_code=hold)
    for kind in set(K) - set(possible(order)):
        with pytest.raises(NotPossible) as refusal:
            require(kind, order)

        assert (refusal.value.code, str(refusal.value)) == obstacle(kind, order)


@pytest.mark.parametrize(
    ("kind", "changed", "code"),
    [
        (K.RETRY, {"state": S.CLEARED}, "wrong_state"),
        (K.RETRY, {"hold_code": "contents_differ"}, "held"),
        (K.RETRY, {"error_code": "key_expired"}, "key_expired"),
        (K.RETRY, {"error_code": "key_reused"}, "key_reused"),
        (K.RETRY, {"nothing_left": True}, "nothing_left"),
        (K.RELEASE_HOLD, {}, "not_held"),
        (K.RELEASE_HOLD, {"hold_code": "contents_differ", "state": S.UNKNOWN}, "wrong_state"),
        (K.CONFIRM_DONE, {"state": S.RUNNING}, "wrong_state"),
        (K.CONFIRM_DONE, {"operation_state": Op.DONE}, "operation_known"),
        (K.CONFIRM_NOT_DONE, {}, "operation_known"),
        (K.VOID, {"state": S.RETRYING}, "wrong_state"),
        (K.VOID, {"operation_state": Op.UNKNOWN}, "unfinished"),
        (K.VOID, {"operation_state": Op.DONE, "step": 4}, "finished"),
        (K.VOID, {"forgotten": True}, "forgotten"),
    ],
)
def test_the_reason_has_a_code(kind: InterventionKind, changed: dict[str, object], code: str) -> None:
    found = obstacle(kind, situation(**changed))

    assert found is not None
    assert found[0] == code


class TestAfterARestore:
    def test_a_void_waits_for_the_status_query_of_a_retry_that_may_be_forgotten(self) -> None:
        forgotten = situation(forgotten=True)

        assert K.VOID not in possible(forgotten)
        assert "O-1:2:r1" in str(obstacle(K.VOID, forgotten))
        assert query_obstacle(forgotten) is None

    @pytest.mark.parametrize("changed", [{"voided_before": True}, {"nothing_left": True}])
    def test_unless_that_void_left_nothing_out_or_nothing_can_be_forgotten(self, changed: dict[str, object]) -> None:
        assert K.VOID in possible(situation(forgotten=True, **changed))

    @pytest.mark.parametrize("operation_state", [Op.OPEN, Op.PENDING, Op.UNKNOWN])
    def test_an_order_that_was_voided_before_is_voided_again_though_its_operation_is_not_known(self, operation_state: OperationState) -> None:
        before = situation(operation_state=operation_state, hold_code="voided_before_restore", voided_before=True)

        assert K.VOID not in possible(before)
        assert K.VOID in possible(situation(operation_state=operation_state, hold_code="voided_before_restore", voided_before=True, settled=True))

    @pytest.mark.parametrize(
        ("changed", "code"),
        [
            ({}, "not_forgotten"),
            ({"forgotten": True, "state": S.RETRYING}, "not_forgotten"),
            ({"forgotten": True, "nothing_left": True}, "nothing_left"),
        ],
    )
    def test_a_status_query_only_is_for_a_parked_order_that_may_have_been_retried(self, changed: dict[str, object], code: str) -> None:
        with pytest.raises(NotPossible) as refusal:
            require_query(situation(**changed))

        assert refusal.value.code == code
