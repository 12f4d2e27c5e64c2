"""The record of what people do at the desk, beside the admin's own log of its actions."""

from functools import partial
from typing import Any

import structlog
from django.db import DatabaseError, transaction

from base.alarms import notify
from base.desk.actor import current
from base.models import DeskEvent

log = structlog.get_logger(__name__)


def note(kind: str, /, *, username: str = "", user_id: int | None = None, order_id: str = "", **detail: Any) -> DeskEvent:
    """Writes one line, in the transaction that is open if one is. `username` and `user_id` stand
    for who acts where the request doesn't tell yet.
    """
    actor = current()
    return DeskEvent.objects.create(
        kind=kind,
        username=(username or actor.name)[:150].replace("\0", ""),
        user_id=user_id if user_id is not None or username else actor.id,
        address=actor.address,
        order_id=order_id,
        detail=detail,
    )


def note_look(page: str, order_id: str) -> None:
    """Somebody looked at what is known of an order. A replica that can't write says so in its log:
    looking works there, too.
    """
    try:
        with transaction.atomic():
            note("looked", order_id=order_id, page=page)
    except DatabaseError:
        actor = current()
        log.warning("somebody looked at an order", order_id=order_id, page=page, by=actor.name, address=actor.address)


def note_and_tell(kind: str, message: str, /, *, order_id: str = "", **detail: Any) -> None:
    """The same, told outside the database too as soon as it is committed."""
    event = note(kind, order_id=order_id, **detail)
    context = {**detail, "by": event.username, "by_id": event.user_id, "address": event.address, "record": event.pk}
    if order_id:
        context["order_id"] = order_id
    transaction.on_commit(partial(notify, kind, message, **context))
