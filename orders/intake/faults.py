"""Tells a poison message from a systemic failure (a bad release): if other orders are accepted
meanwhile, the message is to blame and is quarantined.
"""

from collections.abc import Callable, Sequence
from typing import Final

from base.alarms import alarm
from orders.models import SyncOrder

INTAKE_FAULT: Final = "intake_fault"
FAULT_FIX: Final = "the cause is in this log: go back to the release before, or deploy a mended one; nothing is lost meanwhile, all is retried"


class IntakeFault(Exception):  # noqa: N818 - named by what it reports
    """An internal error: the rows are valid, but their clearings can't be opened. Nothing of the
    orders named is stored.
    """

    def __init__(self, event: str, order_ids: Sequence[str]) -> None:
        super().__init__(event)
        self.order_ids = order_ids

    @classmethod
    def of(cls, error: Exception, order_ids: Sequence[str]) -> "IntakeFault":
        """What went wrong while the clearings of these orders were opened."""
        return cls(f"{type(error).__name__}: {str(error).strip()} (opening {', '.join(order_ids[:3])})", order_ids)


def raise_alarm(fault: IntakeFault) -> None:
    """Reports that an internal error keeps orders out: for a caller that has no other batch which
    could show what is to blame.
    """
    few = list(fault.order_ids[:3])
    alarm(INTAKE_FAULT, "no order can be opened", error=str(fault), orders=len(fault.order_ids), order_ids=few, fix=FAULT_FIX, exc_info=fault)


def never_succeeded() -> bool:
    """The default where nothing is known of other orders."""
    return False


def success_since() -> Callable[[], bool]:
    """Returns a function that says whether any process has accepted an order since this call."""
    newest = _newest()
    return lambda: _newest() > newest


def _newest() -> int:
    return SyncOrder.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
