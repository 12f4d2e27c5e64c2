"""What contradicts an accepted order, or isn't a valid one: quarantined, and where it concerns an
accepted order that one is put on hold.

A message may carry thousands of rows. What they have in common is done once: a transaction
quarantines as many rows as one may have, the message's bytes are stored once, and what became of
its rows is logged for the first ones. Only a hold has a transaction of its own, with the row that
causes it, since it takes a lane's lock.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Final, TypeVar

import structlog

from base.alarms import alarm
from orders.intake.classify import (
    DATABASE_REFUSED,
    DELETED,
    EARLY,
    INTERNAL_ERROR,
    NOT_AUTHENTIC,
    REFUSED_PREFIX,
    TOO_MANY_ROWS,
    UNREADABLE,
    Bad,
    Place,
    Suspect,
)
from orders.intake.order_store import concerns_accepted, lock_out_inserts, stored_places
from orders.intake.quarantine import HOLDING, held_already, quarantine, quarantine_contradiction
from orders.intake.result import IngestResult
from orders.models import Source

log = structlog.get_logger(__name__)
Hold = Callable[[str, str], None]
T = TypeVar("T")
LOGGED_ROWS_MAX: Final = 20  # of one message
BAD_IN_ITSELF: Final = frozenset({UNREADABLE, DATABASE_REFUSED, INTERNAL_ERROR, TOO_MANY_ROWS})


class BadNews:
    """Of one batch. `transaction` opens one, `rows_max` is for how many rows, `result` is where
    they are counted.
    """

    def __init__(
        self, source: Source, hold: Hold, transaction: Callable[[], AbstractContextManager[None]], rows_max: int, result: IngestResult
    ) -> None:
        self._source = source
        self._hold = hold
        self._transaction = transaction
        self._rows_max = rows_max
        self._result = result
        self._quarantined: Counter[Place] = Counter()
        self._not_authentic: list[Bad] = []

    def changes(self, suspects: Sequence[Suspect], archived: Callable[[Collection[str]], Collection[str]]) -> None:
        """Quarantines each changed or deleted row. If it refers to an accepted order, also puts
        that order on hold, unless the row is older than the version that we accepted.

        A deleted row of an order that is `archived` is only counted: the counter tidies its table.
        """
        if not suspects:
            return
        places = stored_places({suspect.order_id for suspect in suspects})
        concerned, others = _parted(suspects, lambda suspect: concerns_accepted(suspect, places))
        deleted = {suspect.order_id for suspect in concerned if suspect.code == DELETED}
        tidied_ids = set(archived(deleted)) if deleted else set()
        tidied, contradictions = _parted(concerned, lambda suspect: suspect.code == DELETED and suspect.order_id in tidied_ids)
        self._result.archived += len(tidied)
        self._contradict([suspect.bad(suspect.code) for suspect in contradictions])
        unknown, filtered = _parted(others, lambda suspect: bool(suspect.otherwise))
        self._result.filtered += len(filtered)
        for part in self._parts(unknown):
            self._quarantine_unless_accepted(part)

    def _quarantine_unless_accepted(self, suspects: Sequence[Suspect]) -> None:
        """Quarantines changes of orders that aren't stored. An order that is being accepted at this
        moment is waited for, and is put on hold then.
        """
        with self._transaction():
            lock_out_inserts()
            places = stored_places({suspect.order_id for suspect in suspects})
            accepted, unknown = _parted(suspects, lambda suspect: concerns_accepted(suspect, places))
            bad_messages = [suspect.bad(suspect.otherwise) for suspect in unknown]
            new = {id(bad) for bad in quarantine(bad_messages, self._source)}
        self._contradict([suspect.bad(suspect.code) for suspect in accepted])
        self._record_all(bad_messages, new)

    def quarantine_all(self, bad_messages: Sequence[Bad]) -> None:
        """Quarantines messages that are bad in themselves."""
        for part in self._parts(bad_messages):
            with self._transaction():
                new = {id(bad) for bad in quarantine(part, self._source)}
            self._record_all(part, new)

    def _contradict(self, bad_messages: Sequence[Bad]) -> None:
        """As `contradicts`, for many: those that were quarantined before cost nothing more, so that
        a batch that comes again doesn't begin again.
        """
        for part in self._parts(bad_messages):
            known = held_already(part)
            for bad in part:
                if id(bad) in known:
                    self._record(bad, new=False)
                else:
                    self.contradicts(bad)

    def contradicts(self, bad: Bad) -> None:
        """Quarantines the message and puts the order's clearing on hold, in one transaction; the
        same message again does neither.
        """
        with self._transaction():
            outcome = quarantine_contradiction(bad, self._source)
            if outcome.holds:
                self._hold(bad.order_id, bad.reason)
        self._record(bad, new=outcome.new)

    def _record_all(self, bad_messages: Sequence[Bad], new: Collection[int]) -> None:
        for bad in bad_messages:
            self._record(bad, new=id(bad) in new)

    def _record(self, bad: Bad, *, new: bool) -> None:
        """Counts and logs a message that was quarantined now, or (not `new`) before."""
        result, place = self._result, bad.origin.place
        refused = bad.reason.startswith(REFUSED_PREFIX)
        if refused:
            result.refused += new
        else:
            result.quarantined += new
        result.known += not new
        if bad.reason == NOT_AUTHENTIC:
            (result.not_authentic if new else result.bad_before).add(place)
            if new:
                self._not_authentic.append(bad)
        elif (refused and bad.reason != EARLY) or bad.reason in BAD_IN_ITSELF:
            (result.bad if new else result.bad_before).add(place)
        if new and bad.reason in HOLDING:
            result.holding[place] += 1
        if new:
            self._quarantined[place] += 1
            if self._quarantined[place] <= LOGGED_ROWS_MAX:
                log.warning("quarantined", reason=bad.reason, detail=bad.detail, order_id=bad.order_id, **_shown(place))

    def report(self) -> None:
        """Logs of how many more rows the log says nothing, and raises one alarm for all that isn't
        the counter's.
        """
        if self._not_authentic:
            first = self._not_authentic[0]
            fix = "who may write to the topic? the counter's own rows come by the gap pass; were its keys changed: INTAKE_KEYS"
            alarm(
                "not_authentic",
                "rows that the counter didn't write were refused",
                rows=len(self._not_authentic),
                example=first.detail,
                **_shown(first.origin.place),
                fix=fix,
            )
        for place, rows in self._quarantined.items():
            if rows > LOGGED_ROWS_MAX:
                log.warning("more rows of this message quarantined", rows=rows - LOGGED_ROWS_MAX, **_shown(place))

    def _parts(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        return (items[at : at + self._rows_max] for at in range(0, len(items), self._rows_max))


def _parted(items: Sequence[T], belongs: Callable[[T], bool]) -> tuple[list[T], list[T]]:
    """Those that belong, and the others."""
    parted: tuple[list[T], list[T]] = ([], [])
    for item in items:
        parted[not belongs(item)].append(item)
    return parted


def _shown(place: Place) -> dict[str, object]:
    topic, partition, offset = place
    return {"topic": topic, "partition": partition, "offset": offset}
