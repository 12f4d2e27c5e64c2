"""The states of a clearing, of an operation, of an attempt and of a breaker, and what may follow
what (design, section 4).

The database enforces TRANSITIONS: `store/state_machine.py` installs them, and a trigger refuses
every other change of a clearing's state (`sql/12_transitions.sql`).
"""

from typing import Final

from django.db import models


class State(models.TextChoices):
    WAITING = "waiting"  # accepted, behind an older order of its user
    QUEUED = "queued"  # head of its lane; its message is sent, and sent again where it was lost
    RUNNING = "running"  # a worker holds the claim
    RETRYING = "retrying"  # the last attempt surely had no effect; due at due_at
    PENDING = "pending"  # the counterparty is still processing it; due at due_at for a status query
    UNKNOWN = "unknown"  # the outcome isn't known; due at due_at for a status query
    PARKED = "parked"  # needs an operator; error_code says why
    CLEARED = "cleared"  # all operations confirmed
    VOIDED = "voided"  # closed by two operators


S = State
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    S.WAITING: frozenset({S.QUEUED, S.PARKED}),
    S.QUEUED: frozenset({S.RUNNING, S.PARKED}),
    S.RUNNING: frozenset({S.RUNNING, S.CLEARED, S.RETRYING, S.PENDING, S.UNKNOWN, S.PARKED, S.QUEUED}),
    S.RETRYING: frozenset({S.QUEUED, S.PARKED}),
    S.PENDING: frozenset({S.QUEUED, S.PARKED}),
    S.UNKNOWN: frozenset({S.QUEUED, S.PARKED}),
    S.PARKED: frozenset({S.PARKED, S.WAITING, S.VOIDED}),  # again: for another reason, once operators confirmed a step or released a hold
    S.CLEARED: frozenset(),
    S.VOIDED: frozenset(),
}
INITIAL: Final = (S.WAITING, S.QUEUED)  # accepted: behind others of its user, or at once the head of its lane
ACTIVE: Final = (S.QUEUED, S.RUNNING, S.RETRYING, S.PENDING, S.UNKNOWN)  # at most one a user: they hold the lane
DUE: Final = (S.RETRYING, S.PENDING, S.UNKNOWN)  # the sweep queues them again at due_at
FINAL: Final = (S.CLEARED, S.VOIDED)
# Workers that died while running an order, since its last result. Three of workers that ran others
# beside it make it a poison candidate; two more of the isolated worker, which ran nothing else,
# make it poison.
ISOLATED_AFTER_DEATHS: Final = 3
POISON_AFTER_DEATHS: Final = 5


class OperationState(models.TextChoices):
    PLANNED = "planned"  # written, under no claim yet; or every attempt of it surely had no effect
    OPEN = "open"  # under a claim; it may be sent at any moment
    PENDING = "pending"  # the counterparty is still processing it
    UNKNOWN = "unknown"  # it may have been applied: a status query comes before it is sent again
    DONE = "done"
    REJECTED = "rejected"  # finally


class InterventionKind(models.TextChoices):
    """What an operator may request. All but a retry need a second operator's approval."""

    RETRY = "retry", "retry"
    RELEASE_HOLD = "release_hold", "release of the hold"  # the accepted contents stand
    CONFIRM_DONE = "confirm_done", "step confirmed as done"  # with evidence from outside; the order goes on behind the step
    CONFIRM_NOT_DONE = "confirm_not_done", "step confirmed as not done"  # nor ever: a retry may raise the key's revision, or the order be voided
    VOID = "void", "void"


class InterventionState(models.TextChoices):
    REQUESTED = "requested"  # waits for a second operator
    EXECUTED = "executed"
    REFUSED = "refused"  # or withdrawn by the operator who requested it
    FAILED = "failed"  # what it referred to had changed
    EXPIRED = "expired"


class Outcome(models.TextChoices):
    """How an attempt ended; also the label of the attempts' metric."""

    DONE = "done"
    PENDING = "pending"
    RETRYABLE = "retryable"  # surely not applied
    REJECTED = "rejected"  # finally, stored under its key
    UNKNOWN = "unknown"
    LOST = "lost"  # the worker that may have sent it lost its claim


class Breaker(models.TextChoices):
    """Of a counterparty (clearing/gateways/counterparty_state.py)."""

    CLOSED = "closed"  # calls go through
    OPEN = "open"  # none does; a probe asks at intervals
    HALF_OPEN = "half_open"  # a probe was answered: one call of each process tries


def check_complete() -> None:
    """Every state must be in the table and be reachable. Raises AssertionError, at import."""
    reachable = set(INITIAL).union(*TRANSITIONS.values())
    if set(TRANSITIONS) != set(State) or reachable != set(State):
        raise AssertionError(f"states and transitions disagree: {set(State) ^ set(TRANSITIONS) or set(State) ^ reachable}")


check_complete()
