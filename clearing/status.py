"""The states of a clearing, of an operation, of an attempt and of a breaker, and what may follow
what (design, section 4).
"""

from typing import Final

from django.db import models


class State(models.TextChoices):
    WAITING = "waiting"  # accepted, behind an older order of its user
    QUEUED = "queued"  # head of its lane; to be published, or published (again)
    RUNNING = "running"  # a worker holds the claim
    RETRYING = "retrying"  # the last attempt surely had no effect; due at due_at
    PENDING = "pending"  # the counterparty is still at it; due at due_at for a status query
    UNKNOWN = "unknown"  # the outcome isn't known; due at due_at for a status query
    PARKED = "parked"  # needs a person; error_code says why
    CLEARED = "cleared"  # all operations confirmed
    VOIDED = "voided"  # closed by a person, approved by a second one


S = State
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    S.WAITING: frozenset({S.QUEUED, S.PARKED}),
    S.QUEUED: frozenset({S.RUNNING, S.PARKED}),
    S.RUNNING: frozenset({S.RUNNING, S.CLEARED, S.RETRYING, S.PENDING, S.UNKNOWN, S.PARKED, S.QUEUED}),
    S.RETRYING: frozenset({S.QUEUED, S.PARKED}),
    S.PENDING: frozenset({S.QUEUED, S.PARKED}),
    S.UNKNOWN: frozenset({S.QUEUED, S.PARKED}),
    S.PARKED: frozenset({S.PARKED, S.WAITING, S.VOIDED}),  # parked still, for another reason: people confirmed something, or released its hold
    S.CLEARED: frozenset(),
    S.VOIDED: frozenset(),
}
ACTIVE: Final = (S.QUEUED, S.RUNNING, S.RETRYING, S.PENDING, S.UNKNOWN)  # at most one a user: they hold the lane
DUE: Final = (S.RETRYING, S.PENDING, S.UNKNOWN)  # the sweep queues them again at due_at
FINAL: Final = (S.CLEARED, S.VOIDED)


class OperationState(models.TextChoices):
    PLANNED = "planned"  # written, under no claim yet; or every attempt of it surely had no effect
    OPEN = "open"  # under a claim; it may be sent at any moment
    PENDING = "pending"  # the counterparty is still at it
    UNKNOWN = "unknown"  # it may have been applied: ask first
    DONE = "done"
    REJECTED = "rejected"  # finally


class InterventionKind(models.TextChoices):
    """What a person may ask for. All but a retry need a second person's approval."""

    RETRY = "retry", "retry"
    RELEASE_HOLD = "release_hold", "release of the hold"  # the accepted contents stand
    CONFIRM_DONE = "confirm_done", "step confirmed as done"  # with evidence from outside; the order goes on behind the step
    CONFIRM_NOT_DONE = "confirm_not_done", "step confirmed as not done"  # nor ever: a retry may raise the key's revision, or the order be voided
    VOID = "void", "void"


class InterventionState(models.TextChoices):
    REQUESTED = "requested"  # waits for a second person
    EXECUTED = "executed"
    REFUSED = "refused"  # or withdrawn by who asked
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
    OPEN = "open"  # none does; a probe asks again and again
    HALF_OPEN = "half_open"  # a probe was answered: one call of each process tries


def check_complete() -> None:
    """Every state must stand in the table and be reachable. Raises AssertionError, at import."""
    reachable = {S.WAITING}.union(*TRANSITIONS.values())
    if set(TRANSITIONS) != set(State) or reachable != set(State):
        raise AssertionError(f"states and transitions disagree: {set(State) ^ set(TRANSITIONS) or set(State) ^ reachable}")


check_complete()
