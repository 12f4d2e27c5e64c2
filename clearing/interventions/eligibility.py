"""Which interventions are possible for an order, and why the others aren't: a pure function of its
`Situation`. The admin's pages, the retry and the request for approval all decide by it; the
database's functions check again what may have changed since.

================  =========================  =======================================================
intervention      the clearing is            and its current operation is, or what else must be true
================  =========================  =======================================================
retry             parked, retrying           not held, not `key_expired` or `key_reused`
release_hold      parked                     held
confirm_done      parked, pending, unknown   planned, pending, unknown or rejected
confirm_not_done  parked, pending, unknown   pending or unknown
void              parked                     planned, rejected, done or settled; not all steps done,
                                             and no retry that a restore may have forgotten
query only        parked                     a retry that a restore may have forgotten
================  =========================  =======================================================
"""

from dataclasses import dataclass

from clearing.flow.flows import IMPLAUSIBLE_FILL, LAST_STEP, SLIPPAGE_EXCEEDED
from clearing.policy.outcomes import KEY_EXPIRED, KEY_REUSED
from clearing.status import InterventionKind, OperationState, State
from clearing.store.bounds import LIMIT_EXCEEDED
from clearing.store.interventions import NotPossible

RETRYABLE_STATES = (State.PARKED, State.RETRYING)
CONFIRMABLE_STATES = (State.PARKED, State.PENDING, State.UNKNOWN)
VOIDED_BEFORE = "voided_before_restore"  # the hold of an order that operators voided in the time that a restore has forgotten
ONLY_ASKED = "only_asked"  # the hold of an order whose next key was queried and found unknown
UNSURE = (OperationState.PENDING, OperationState.UNKNOWN)
K = InterventionKind
Obstacle = tuple[str, str]  # code, and the reason in words


@dataclass(frozen=True, slots=True)
class Situation:
    """An order as an operator finds it: all that decides which interventions are possible."""

    state: State
    step: int
    operation_state: OperationState  # of the current operation
    error_code: str = ""
    hold_code: str = ""
    next_key: str = ""  # under which a retry would send, where that isn't the current operation's key
    nothing_left: bool = False  # the exchange sold everything and bought nothing: a retry has nothing to send
    forgotten: bool = False  # a restore may have forgotten a retry, under a key that was not queried since
    voided_before: bool = False  # voided in the time that a restore has forgotten, and not released since
    settled: bool = False  # that void leaves nothing open: nothing was sent since of what isn't known


def possible(situation: Situation) -> list[InterventionKind]:
    """The interventions that are possible now, in the order of the table."""
    return [kind for kind in InterventionKind if not obstacle(kind, situation)]


def require(kind: InterventionKind, situation: Situation) -> None:
    """Raises NotPossible where the situation doesn't allow this intervention."""
    _refuse(obstacle(kind, situation))


def require_query(situation: Situation) -> None:
    """Raises NotPossible where a retry that only queries the next key has nothing to find."""
    _refuse(query_obstacle(situation))


def require_nothing_forgotten(situation: Situation) -> None:
    """Raises NotPossible where a void would leave out what a forgotten retry did."""
    _refuse(forgotten_obstacle(situation))


def _refuse(reason: Obstacle | None) -> None:
    if reason:
        raise NotPossible(*reason)


def obstacle(kind: InterventionKind, situation: Situation) -> Obstacle | None:
    """Why this intervention is not possible: (code, reason); None where it is."""
    match kind:
        case K.RETRY:
            return _no_retry(situation)
        case K.RELEASE_HOLD:
            return _no_release(situation)
        case K.CONFIRM_DONE:
            return _no_confirming(situation, (*UNSURE, OperationState.PLANNED, OperationState.REJECTED))
        case K.CONFIRM_NOT_DONE:
            return _no_confirming(situation, UNSURE)
        case K.VOID:
            return _no_void(situation) or forgotten_obstacle(situation)


HELD = {
    VOIDED_BEFORE: "it was voided before the restore: void it again, nothing is booked twice; or release the hold, if it never was",
    ONLY_ASKED: "its next key was queried, and nothing sent: release the hold, or confirm that the step did not happen",
    LIMIT_EXCEEDED: "it is beyond a bound of what an order or a user may move: a second operator has to approve that it goes on (release the hold)",
    SLIPPAGE_EXCEEDED: "of an order of this size a second operator has to approve the price (release the hold)",
    IMPLAUSIBLE_FILL: "its fill can't be right as it was answered: a second operator has to approve that it goes on (release the hold)",
}
HELD_OTHERWISE = "the order's contents changed at the counter; a hold is released, not retried"


def _no_retry(situation: Situation) -> Obstacle | None:
    if situation.state not in RETRYABLE_STATES:
        return "wrong_state", f"it is {situation.state}: only parked and retrying orders can be retried"
    if situation.hold_code:
        return "held", HELD.get(situation.hold_code, f"it is held ({situation.hold_code}): {HELD_OTHERWISE}")
    if situation.error_code == KEY_REUSED:
        return KEY_REUSED, "the counterparty knows its key with other contents than ours: confirm first whether the step was done"
    if situation.error_code == KEY_EXPIRED:
        return KEY_EXPIRED, "its key is older than the counterparty keeps keys, sending again could do it twice: confirm first whether it was done"
    return _nothing_left(situation)


def query_obstacle(situation: Situation) -> Obstacle | None:
    """Why a retry that only queries the next key is not possible; None where it is."""
    if situation.state != State.PARKED or not situation.forgotten:
        return "not_forgotten", "no retry of it can be forgotten: only a parked order from before a restore needs a status query of its next key"
    return _nothing_left(situation)


def _nothing_left(situation: Situation) -> Obstacle | None:
    if situation.nothing_left:
        return "nothing_left", "all of it was sold, and nothing bought for it: void the order, and settle it with the trading service's staff"
    return None


def _no_release(situation: Situation) -> Obstacle | None:
    if not situation.hold_code:
        return "not_held", "it isn't held"
    if situation.state != State.PARKED:
        return "wrong_state", f"it is {situation.state}: a hold is released once the order is parked"
    return None


def _no_confirming(situation: Situation, operation_states: tuple[OperationState, ...]) -> Obstacle | None:
    if situation.state not in CONFIRMABLE_STATES:
        return "wrong_state", f"it is {situation.state}: a step is confirmed while the order is parked, pending or unknown"
    if situation.operation_state not in operation_states:
        return "operation_known", f"its operation is {situation.operation_state}: there is nothing to confirm"
    return None


def _no_void(situation: Situation) -> Obstacle | None:
    if situation.state != State.PARKED:
        return "wrong_state", f"it is {situation.state}: only a parked order is voided"
    if situation.operation_state in {*UNSURE, OperationState.OPEN} and not situation.settled:
        return "unfinished", "it is not known whether its operation was done: confirm that first"
    if situation.step == LAST_STEP and situation.operation_state == OperationState.DONE:
        return "finished", "all its steps are done"
    return None


def forgotten_obstacle(situation: Situation) -> Obstacle | None:
    """A void's bookings are computed from the operations that are known as done; a forgotten retry
    would be left out. An order that was voided before the restore had it in that void.
    """
    if situation.forgotten and not situation.nothing_left and not situation.voided_before:
        return "forgotten", f"the restore may have forgotten a retry: query the key {situation.next_key} first, by a retry with a status query only"
    return None
