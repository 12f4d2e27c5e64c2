"""Orders from the future: they are quarantined until their time has come. The gap pass reads them
in each pass, and accepts them then (design, rule 15).
"""

from collections.abc import Sequence

from base.alarms import alarm
from orders.intake.classify import EARLY, Bad
from orders.intake.order_store import Hashed, accepted_through_ms


def early_and_due(left_out: Sequence[Hashed]) -> tuple[list[Bad], list[Hashed]]:
    """Of orders that were neither accepted nor stored: those from the future, to be quarantined,
    and those whose time has come meanwhile. Raises NotStarted if that is why they were left out.
    """
    through_ms = accepted_through_ms()
    early = [hashed for hashed in left_out if hashed.arrival.order.created_ms > through_ms]
    due = [hashed for hashed in left_out if hashed.arrival.order.created_ms <= through_ms]
    return [Bad(EARLY, _detail(each, through_ms), each.order_id, each.arrival.origin, each.order_hash) for each in early], due


def tell_of_early(early: Sequence[Bad]) -> None:
    """Raises the alarm for orders that were just quarantined."""
    fix = "compare the counter's clock with PostgreSQL's; the gap pass accepts each order when its time has come"
    few, example = [bad.order_id for bad in early[:3]], early[0].detail
    alarm("from_the_future", "orders from the future wait for their time", orders=len(early), order_ids=few, example=example, fix=fix)


def _detail(hashed: Hashed, through_ms: int) -> str:
    created_ms = hashed.arrival.order.created_ms
    return f"created at {created_ms}, {(created_ms - through_ms) / 1000:.0f} s later than what is accepted now"
