"""Orders that people voided in the time that a restore has forgotten: the list is read, remembered,
and each order on it is held.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from django.db import transaction

from base.alarms import alarm
from clearing.dispatch import publish
from clearing.interventions.eligibility import VOIDED_BEFORE
from clearing.status import State
from clearing.store import recovery
from orders.intake.order_store import lock_out_inserts

_ORDER_ID: Final = re.compile(r"[!-~]{1,64}")  # as orders/intake/mapping.py takes them
LINES_SHOWN: Final = 5


class Unreadable(Exception):  # noqa: N818 - an answer to a person
    """Lines of the list aren't order ids; the message says which."""


@dataclass(slots=True)
class VoidReport:
    """What became of the orders on the list, by their ids."""

    held: list[str] = field(default_factory=list)  # now, or before
    awaited: list[str] = field(default_factory=list)  # not here: held when they come
    voided: list[str] = field(default_factory=list)  # the backup holds the void
    cleared: list[str] = field(default_factory=list)  # too late: its steps were done on top of the void's bookings
    released: list[str] = field(default_factory=list)  # two people said since that it wasn't voided


def read_list(lines: Iterable[str]) -> list[str]:
    """The order ids, one a line, each once; `#` begins a comment. Raises Unreadable, with the lines
    that aren't ids.
    """
    found: dict[str, None] = {}
    wrong = []
    for number, line in enumerate(lines, start=1):
        text = re.sub(r"(^|\s)#.*", "", line.removeprefix("\ufeff")).strip()
        if _ORDER_ID.fullmatch(text):
            found[text] = None
        elif text:
            wrong.append(f"line {number}: {text[:80]!r}")
    if wrong:
        more = f" and {len(wrong) - LINES_SHOWN} more" if len(wrong) > LINES_SHOWN else ""
        raise Unreadable(f"not an order id (one a line, # begins a comment): {'; '.join(wrong[:LINES_SHOWN])}{more}; nothing was changed")
    return list(found)


def hold_all(order_ids: list[str], *, actor: str) -> VoidReport:
    """Remembers the orders, so that each is held as soon as it comes, and holds those that are
    here; publishes whom that lets go on.

    All are remembered in one transaction, each is held in one of its own: after a failure it is
    repeated as a whole.
    """
    report = VoidReport()
    if not order_ids:
        return report
    with transaction.atomic():
        lock_out_inserts()
        recovery.remember_voided(order_ids, actor=actor)
    following = []
    for order_id in order_ids:
        state, ref = recovery.hold_voided(order_id, actor=actor, generation=publish.generation())
        following += [ref] if ref is not None else []
        _sort(report, order_id, state)
    publish.publish(following)  # after the last: a user's next order may be on the list as well
    return report


def _sort(report: VoidReport, order_id: str, state: str) -> None:
    match state:
        case "":
            report.awaited.append(order_id)
        case "released":
            report.released.append(order_id)
        case State.VOIDED:
            report.voided.append(order_id)
        case State.CLEARED:
            report.cleared.append(order_id)
            alarm(VOIDED_BEFORE, "an order that people had voided before the restore was cleared", order_id=order_id, already_cleared=True)
        case _:
            report.held.append(order_id)
