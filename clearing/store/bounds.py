"""The bounds of what may move (design, rule 13): who is told that an order is beyond one, and the
sum of a minute, which is the leader's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Final

from django.conf import settings
from django.db import transaction

from base.alarms import alarm
from base.db import call
from clearing.flow.flows import CURRENT_FLOW, FLOWS
from clearing.store import statements

LIMIT_EXCEEDED: Final = "limit_exceeded"  # what clearing_accept holds an order as


def tell_limited(clearings: Sequence[int]) -> None:
    """Raises the alarms of orders that a bound has parked, once they are committed."""
    sql = "SELECT o.order_id, o.user_id, o.quoted_usdt FROM orders_syncorder o JOIN clearing_clearing c ON c.order_id = o.id WHERE c.id = ANY (%s)"
    for order_id, user_id, usdt in call(sql, [list(clearings)]):
        told = {"order_id": order_id, "error_code": LIMIT_EXCEEDED, "step": 1, "user_id": user_id, "quoted_usdt": usdt}
        transaction.on_commit(partial(alarm, "parked", "an order needs a person", **told))


@dataclass(frozen=True, slots=True)
class Minute:
    """What has begun within the last minute, and what that changed: "paused", "resumed" or
    nothing.
    """

    usdt: Decimal
    changed: str


def bound_minute(actor: str) -> Minute:
    """Sums up what has begun, and pauses the first step, or lets it go on."""
    first = FLOWS[CURRENT_FLOW]["OPEN"][0].counterparty
    row = call(statements.BOUND_MINUTE, {"max": settings.CLEARING_USDT_PER_MINUTE_MAX, "counterparty": first, "actor": actor})[0]
    return Minute(row.usdt, row.changed)
