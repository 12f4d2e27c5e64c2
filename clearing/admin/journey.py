"""One order's history as its page shows it: operations with their attempts (the evidence), and the
status changes. The number of queries is fixed.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from base.readable import duration, text_of
from clearing.models import Attempt, Clearing, Operation, StatusChange
from clearing.status import State

ATTEMPTS_MAX = 200  # on a page; an order that was queried all night has thousands
CHANGES_MAX = 200
VARIANTS = {  # colours of a label: states of clearings and operations, and outcomes of attempts
    "waiting": "",
    "queued": "info",
    "running": "primary",
    "retrying": "warning",
    "retryable": "warning",
    "pending": "warning",
    "unknown": "warning",
    "lost": "warning",
    "open": "primary",
    "parked": "danger",
    "rejected": "danger",
    "cleared": "success",
    "done": "success",
}


@dataclass(frozen=True, slots=True)
class ShownAttempt:
    """An attempt with its duration and response as text."""

    attempt: Attempt
    took: str
    response: str

    @property
    def variant(self) -> str:
        """The colour of its outcome."""
        return VARIANTS.get(self.attempt.outcome, "")


@dataclass(frozen=True, slots=True)
class ShownOperation:
    """An operation with its newest attempts, oldest first."""

    operation: Operation
    attempts: Sequence[ShownAttempt]
    request: str
    response: str
    took: str

    @property
    def variant(self) -> str:
        """The colour of its state."""
        return VARIANTS.get(self.operation.state, "")


@dataclass(frozen=True, slots=True)
class ShownChange:
    """A status change and how long after the one before it came."""

    change: StatusChange
    after: str

    @property
    def variant(self) -> str:
        """The colour of the state that was entered."""
        return VARIANTS.get(self.change.to_state, "")


@dataclass(frozen=True, slots=True)
class Journey:
    """What the page of an order shows below its fields."""

    clearing: Clearing
    operations: Sequence[ShownOperation]
    changes: Sequence[ShownChange]
    left_out: bool  # older attempts or changes than the page's maximum exist


def read_journey(clearing: Clearing) -> Journey:
    """Three queries, however many rows there are."""
    operations = list(Operation.objects.filter(clearing=clearing).order_by("step", "part", "revision"))
    attempts = list(Attempt.objects.filter(operation__clearing=clearing).order_by("-id")[:ATTEMPTS_MAX])
    changes = list(StatusChange.objects.filter(clearing=clearing).order_by("-id")[:CHANGES_MAX])
    tried = defaultdict(list)
    for attempt in reversed(attempts):
        tried[attempt.operation_id].append(_shown_attempt(attempt))
    return Journey(
        clearing,
        [_shown_operation(operation, tried[operation.pk]) for operation in operations],
        list(_shown_changes(reversed(changes))),
        len(attempts) == ATTEMPTS_MAX or len(changes) == CHANGES_MAX,
    )


def took(since: datetime | None, until: datetime | None) -> str:
    """The time between two moments in words; empty where one is missing."""
    return duration((until - since).total_seconds()) if since and until else ""


def _shown_attempt(attempt: Attempt) -> ShownAttempt:
    return ShownAttempt(attempt, took(attempt.sent_at, attempt.answered_at), text_of(attempt.response))


def _shown_operation(operation: Operation, attempts: Sequence[ShownAttempt]) -> ShownOperation:
    return ShownOperation(
        operation, attempts, text_of(operation.request), text_of(operation.response), took(operation.first_sent_at, operation.done_at)
    )


def _shown_changes(changes: Iterable[StatusChange]) -> Iterable[ShownChange]:
    before: StatusChange | None = None
    for change in changes:
        yield ShownChange(change, took(before.at, change.at) if before else "")
        before = change


def age(clearing: Clearing, created_ms: int, now: datetime) -> str:
    """How long ago the order was created at the counter; of a finished one, how long it took."""
    end = clearing.cleared_at or (clearing.changed_at if clearing.state == State.VOIDED else None)
    return f"took {duration(end.timestamp() - created_ms / 1000)}" if end else duration(now.timestamp() - created_ms / 1000)
