"""Which ways out an order has, as it stands: one table, for the admin's page and for who asks.
Pure.

=================  ==========================  =====================================================
way                the clearing is             and its current operation, or what else must be
=================  ==========================  =====================================================
retry              parked, retrying            not held, not `key_expired` or `key_reused`
release_hold       parked                      held
confirm_done       parked, pending, unknown    planned, pending, unknown or rejected
confirm_not_done   parked, pending, unknown    pending or unknown
void               parked                      planned, rejected, done or settled; not all four done
=================  ==========================  =====================================================
"""

from dataclasses import dataclass

from clearing.flow.flows import LAST_STEP
from clearing.policy.outcomes import KEY_EXPIRED, KEY_REUSED
from clearing.status import InterventionKind, OperationState, State
from clearing.store.interventions import NotPossible

RETRYABLE_STATES = (State.PARKED, State.RETRYING)
CONFIRMABLE_STATES = (State.PARKED, State.PENDING, State.UNKNOWN)
VOIDED_BEFORE = "voided_before_restore"  # the hold of an order that people voided in the time that a restore has forgotten
ONLY_ASKED = "only_asked"
UNSURE = (OperationState.PENDING, OperationState.UNKNOWN)
K = InterventionKind


@dataclass(frozen=True, slots=True)
class Standing:
    """How an order stands: what decides on its ways out."""

    state: State
    step: int
    error_code: str
    hold_code: str
    operation_state: OperationState
    settled: bool = False  # voided before a restore, and nothing was sent since


def ways_out(standing: Standing) -> list[InterventionKind]:
    """All that can be asked for now, in the order of the table."""
    return [kind for kind in InterventionKind if not _obstacle(kind, standing)]


def check(kind: InterventionKind, standing: Standing) -> None:
    """Raises NotPossible where the order, as it stands, doesn't have this way out."""
    obstacle = _obstacle(kind, standing)
    if obstacle:
        raise NotPossible(*obstacle)


def _obstacle(kind: InterventionKind, standing: Standing) -> tuple[str, str] | None:
    match kind:
        case K.RETRY:
            return _no_retry(standing)
        case K.RELEASE_HOLD:
            return _no_release(standing)
        case K.CONFIRM_DONE:
            return _no_confirming(standing, (*UNSURE, OperationState.PLANNED, OperationState.REJECTED))
        case K.CONFIRM_NOT_DONE:
            return _no_confirming(standing, UNSURE)
        case K.VOID:
            return _no_void(standing)


HELD = {
    VOIDED_BEFORE: "it was voided before the restore: void it again, nothing is booked twice; or release the hold, if it never was",
    ONLY_ASKED: "its next key was asked for, and nothing sent: release the hold, or confirm that the step did not happen",
}
HELD_OTHERWISE = "the order's contents changed at the counter; a hold is released, not retried"


def _no_retry(standing: Standing) -> tuple[str, str] | None:
    if standing.state not in RETRYABLE_STATES:
        return "wrong_state", f"it is {standing.state}: only parked and retrying orders are retried by hand"
    if standing.hold_code:
        return "held", HELD.get(standing.hold_code, f"it is held ({standing.hold_code}): {HELD_OTHERWISE}")
    if standing.error_code == KEY_REUSED:
        return KEY_REUSED, "the counterparty knows its key with other bytes than ours: confirm first whether the step was done"
    if standing.error_code == KEY_EXPIRED:
        return KEY_EXPIRED, "its key is older than the counterparty keeps keys, sending again could do it twice: confirm first whether it was done"
    return None


def _no_release(standing: Standing) -> tuple[str, str] | None:
    if not standing.hold_code:
        return "not_held", "it isn't held"
    if standing.state != State.PARKED:
        return "wrong_state", f"it is {standing.state}: a hold is released once the order is parked"
    return None


def _no_confirming(standing: Standing, operation_states: tuple[OperationState, ...]) -> tuple[str, str] | None:
    if standing.state not in CONFIRMABLE_STATES:
        return "wrong_state", f"it is {standing.state}: a step is confirmed while the order is parked, pending or unknown"
    if standing.operation_state not in operation_states:
        return "operation_known", f"its operation is {standing.operation_state}: there is nothing to confirm"
    return None


def _no_void(standing: Standing) -> tuple[str, str] | None:
    if standing.state != State.PARKED:
        return "wrong_state", f"it is {standing.state}: only a parked order is voided"
    if standing.operation_state in {*UNSURE, OperationState.OPEN} and not standing.settled:
        return "unfinished", "nobody knows whether its operation was done: confirm that first"
    if standing.step == LAST_STEP and standing.operation_state == OperationState.DONE:
        return "finished", "all its steps are done"
    return None
