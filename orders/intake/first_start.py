"""Since when this database accepts orders (design, rule 15).

An empty database can't know whether another one cleared the counter's orders before it. So it
accepts none before somebody has said since when it may; `order_store` holds that at each insert,
and whoever reads rows asks here for the rules before.
"""

from secrets import token_hex
from typing import Final

from base.clock import ServiceNow
from base.db import call
from orders.intake.mapping import Rules
from orders.models import FirstStart

COMMAND: Final = "manage.py first_start --since <the time of the first order to clear>"
NOT_STARTED: Final = "not_started"
# A database that holds orders was started by a release that didn't ask, or the row went with a
# backup's restore.
IS_STARTED: Final = "(EXISTS (SELECT FROM orders_firststart WHERE started_at IS NOT NULL) OR EXISTS (SELECT FROM orders_syncorder))"
_SINCE: Final = f"SELECT {IS_STARTED} AS started, (SELECT max(since_ms) FROM orders_firststart WHERE started_at IS NOT NULL) AS since_ms"  # noqa: S608


class NotStarted(Exception):  # noqa: N818 - named by what it reports
    """Our database holds no order, and nobody has said yet since when it shall accept them."""

    def __init__(self) -> None:
        super().__init__(f"this database holds no order, and nobody has said since when it shall accept them: run {COMMAND}")


def since_ms() -> int | None:
    """Since when, in milliseconds of the counter's clock; None before the first start. 0 where only
    INTAKE_SINCE tells.
    """
    row = call(_SINCE, [])[0]
    return (row.since_ms or 0) if row.started else None


def current_rules() -> Rules:
    """The rules for rows to be read now. Raises NotStarted."""
    since = since_ms()
    if since is None:
        raise NotStarted
    return Rules.from_settings(since)


def start(since: int, *, actor: str) -> FirstStart:
    """From now on the database accepts orders that were created since then."""
    return FirstStart.objects.create(since_ms=since, code=token_hex(8), requested_by=actor[:150], started_at=ServiceNow())


def request(since: int, *, actor: str, actor_id: int) -> FirstStart:
    """The same, as soon as a second person has confirmed it by its code."""
    return FirstStart.objects.create(since_ms=since, code=token_hex(8), needs_two=True, requested_by=actor[:150], requested_by_id=actor_id)
