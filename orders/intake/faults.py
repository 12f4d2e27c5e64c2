"""Mistakes of ours that orders meet: whether it is the order's fault or the release's is judged by
whether other orders get in.
"""

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from base.alarms import alarm
from orders.intake.classify import Item
from orders.models import SyncOrder

Result = TypeVar("Result")

INTAKE_FAULT: Final = "intake_fault"
FAULT_FIX: Final = "the cause is in this log: go back to the release before, or deploy a mended one; nothing is lost meanwhile, all is tried again"
PUT_OFF_MAX: Final = 20  # batches of a pass: where so many fail and none gets in, it's the release, and reading on would only cost


class IntakeFault(Exception):  # noqa: N818 - named by what it tells
    """A mistake of ours: the rows are valid, but what follows from them fails. Nothing of the
    orders named is stored.
    """

    def __init__(self, event: str, order_ids: Sequence[str]) -> None:
        super().__init__(event)
        self.order_ids = order_ids


def raise_alarm(fault: IntakeFault) -> None:
    """Says that orders are kept waiting by a mistake of ours: for who has no other batch to judge
    it by.
    """
    few = list(fault.order_ids[:3])
    alarm(INTAKE_FAULT, "no order can be opened", error=str(fault), orders=len(fault.order_ids), order_ids=few, fix=FAULT_FIX, exc_info=fault)


def nobody() -> bool:
    """Nothing is known of other orders."""
    return False


def others_from_now_on() -> Callable[[], bool]:
    """Whether anybody, this process or another, has accepted an order since this was called."""
    newest = _newest()
    return lambda: _newest() > newest


def _newest() -> int:
    return SyncOrder.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


class PutOff(Generic[Result]):
    """Takes a pass's batches in; one that meets a fault waits for the end of the pass, when more is
    known of whose fault it is.
    """

    def __init__(self, take: Callable[[Sequence[Item]], Result]) -> None:
        self._take = take
        self._waiting: list[Sequence[Item]] = []

    def take(self, items: Sequence[Item]) -> Result | None:
        """What became of the batch; None: it waits. Raises IntakeFault when too many do."""
        try:
            return self._take(items)
        except IntakeFault:
            if len(self._waiting) >= PUT_OFF_MAX:
                raise
            self._waiting.append(items)
            return None

    @property
    def waits(self) -> bool:
        """Whether a batch was put off."""
        return bool(self._waiting)

    def take_again(self) -> list[Result]:
        """At the end: what became of those that waited. Raises IntakeFault where still nothing
        speaks against the release.
        """
        return [self._take(items) for items in self._waiting]
