"""When to try again: a pure function of the outcome and of the tries so far. Capped exponential
backoff with jitter, on the database's clock.
"""

from dataclasses import dataclass
from random import Random, SystemRandom

from clearing.status import OperationState, Outcome, State

_random = SystemRandom()
RETRY_AFTER_MS_MAX = 300_000


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay before try n is uniform over base / 2 … min(cap, base · 2ⁿ), in milliseconds, and
    not below the counterparty's Retry-After, which is capped at RETRY_AFTER_MS_MAX: no counterparty
    may delay an order for weeks.
    """

    base_ms: int
    cap_ms: int

    def delay_ms(self, tries: int, *, retry_after_ms: int | None = None, random: Random = _random) -> float:
        """The time to wait after so many tries."""
        ceiling = min(self.cap_ms, self.base_ms * 2 ** min(tries, 30))
        return max(random.uniform(self.base_ms / 2, ceiling), min(retry_after_ms or 0, RETRY_AFTER_MS_MAX))


@dataclass(frozen=True, slots=True)
class Reaction:
    """The states that an attempt other than done leaves the clearing and its operation in."""

    state: State
    operation_state: OperationState
    delay_ms: float = 0


BLOCKED_MS = (100.0, 1_000.0)  # the sweep holds what is blocked, whatever its time; spread, so that not all come at once


def deferral(operation_state: OperationState, wait_ms: int | None) -> Reaction:
    """The reaction to a call that was blocked: the operation keeps its state, and the clearing is
    due soon. The sweep queues it when the counterparty may be called again.
    """
    delay = max(_random.uniform(*BLOCKED_MS), min(wait_ms or 0, RETRY_AFTER_MS_MAX))
    match operation_state:
        case OperationState.PENDING:
            return Reaction(State.PENDING, operation_state, delay)
        case OperationState.UNKNOWN | OperationState.OPEN:
            return Reaction(State.UNKNOWN, OperationState.UNKNOWN, delay)
        case _:
            return Reaction(State.RETRYING, OperationState.PLANNED, delay)


def react(
    outcome: Outcome, *, tries: int, attempts: int, attempts_max: int, backoff: Backoff, retry_after_ms: int | None = None, overdue: bool = False
) -> Reaction:
    """The reaction to an outcome other than done. `tries`: all since the last progress; `attempts`:
    sure failures that count, this one included.

    A sure failure is tried again until its attempts are used up, then parks. Pending and unknown
    are queried as long as it takes: only evidence or operators end them (design, rule 7).
    `overdue`, by a policy's deadline, parks them too; but as what they are.
    """
    delay = backoff.delay_ms(tries, retry_after_ms=retry_after_ms)
    match outcome:
        case Outcome.RETRYABLE if attempts >= attempts_max or overdue:
            return Reaction(State.PARKED, OperationState.PLANNED)
        case Outcome.PENDING | Outcome.UNKNOWN if overdue:
            return Reaction(State.PARKED, OperationState(outcome))
        case Outcome.RETRYABLE:
            return Reaction(State.RETRYING, OperationState.PLANNED, delay)
        case Outcome.PENDING:
            return Reaction(State.PENDING, OperationState.PENDING, delay)
        case Outcome.UNKNOWN:
            return Reaction(State.UNKNOWN, OperationState.UNKNOWN, delay)
        case Outcome.REJECTED:
            return Reaction(State.PARKED, OperationState.REJECTED)
        case _:
            raise ValueError(f"{outcome} isn't reacted to here")
