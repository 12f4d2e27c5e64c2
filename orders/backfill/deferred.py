"""Batches of a pass that failed with an internal error, kept for a second try at its end."""

from collections.abc import Sequence
from typing import Final

from orders.intake.classify import Item
from orders.intake.faults import IntakeFault
from orders.intake.ingest import Intake
from orders.intake.result import IngestResult

DEFERRED_MAX: Final = 20  # where so many batches fail and none succeeds, the release is to blame, and reading on would only cost


class DeferredBatches:
    """Ingests a pass's batches. One that meets an IntakeFault waits for the end of the pass: by
    then other orders may have been accepted, which shows that the order is to blame, not the
    release.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._deferred: list[Sequence[Item]] = []

    def ingest(self, items: Sequence[Item]) -> IngestResult | None:
        """The batch's result; None if it was deferred. Raises IntakeFault when too many were."""
        try:
            return self._intake(items)
        except IntakeFault:
            if len(self._deferred) >= DEFERRED_MAX:
                raise
            self._deferred.append(items)
            return None

    @property
    def pending(self) -> bool:
        """Whether a batch was deferred."""
        return bool(self._deferred)

    def retry(self) -> list[IngestResult]:
        """The results of the deferred batches. Raises IntakeFault if still no other order was
        accepted.
        """
        return [self._intake(items) for items in self._deferred]
