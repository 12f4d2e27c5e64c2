"""Whether the metric of attempts counts each row of the table: what it can't count, since nobody
was told that the row was written.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from base import metrics
from clearing.models import Attempt
from clearing.store import statements

APPENDING: Final = frozenset({statements.RECORD_TRY, statements.STEP_DONE, statements.FINISH, statements.SETTLE})


def counted() -> float:
    """The sum of the metric over all its labels, in this process."""
    return sum(sample.value for family in metrics.ATTEMPTS.collect() for sample in family.samples if sample.name.endswith("_total"))


class UncountedAttempts:
    """Rows that were written by a call whose answer was lost, and that the call which repeats it
    doesn't find, or that is never made.
    """

    def __init__(self) -> None:
        self._uncounted = 0
        self._unanswered: dict[object, int] = {}  # by thread: rows of a call whose answer was lost

    def __len__(self) -> int:
        return self._uncounted + sum(self._unanswered.values())

    def follow(self, thread: object, sql: str, params: Any, act: Callable[[], list[Any]], *, answer_lost: bool) -> list[Any]:
        """Makes a call of the store, whose answer will be lost or not. A thread repeats such a call
        before it makes any other.
        """
        appends = sql in APPENDING and isinstance(params, Mapping) and params["outcome"] is not None
        if not appends:
            self._uncounted += self._unanswered.pop(thread, 0)
            return act()
        if not answer_lost and thread not in self._unanswered:
            return act()
        before = Attempt.objects.count()
        answer = act()
        rows = self._unanswered.pop(thread, 0) + Attempt.objects.count() - before
        if answer_lost:
            self._unanswered[thread] = rows
        else:
            self._uncounted += rows - 1  # the metric counts one
        return answer
