"""Mistakes of ours that orders meet: whether it is the order's fault or the release's is judged by
whether other orders get in.
"""

from collections.abc import Callable, Sequence
from typing import Final

from base.alarms import alarm
from orders.models import SyncOrder

INTAKE_FAULT: Final = "intake_fault"
FAULT_FIX: Final = "the cause is in this log: go back to the release before, or deploy a mended one; nothing is lost meanwhile, all is tried again"


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


def never_succeeded() -> bool:
    """Nothing is known of other orders."""
    return False


def success_since() -> Callable[[], bool]:
    """Whether anybody, this process or another, has accepted an order since this was called."""
    newest = _newest()
    return lambda: _newest() > newest


def _newest() -> int:
    return SyncOrder.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
