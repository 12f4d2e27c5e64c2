"""A retry of many orders: above RETRIES_ALONE_MAX within an hour an operator needs a second
person's approval, however the orders are split.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from django.conf import settings
from django.db import OperationalError, transaction

from base.clock import ServiceNow
from base.db import gave_up_waiting
from base.desk.actor import Actor
from base.desk.proposals import Wanted, propose
from base.models import DeskAccount, Proposal
from clearing.dispatch import publish
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing, Intervention
from clearing.status import InterventionKind
from clearing.store.interventions import Busy, NotPossible

WINDOW: Final = timedelta(hours=1)
APPROVED_BY: Final = ", approved by "  # in who retried what a second person approved; no user's name can hold a comma
LOOKED_AT_MAX: Final = 2_000  # of the newest interventions: enough to count to any sensible limit


def needs_second_person(user: Any, count: int) -> bool:
    """Whether so many retries more are too many for one person within the hour."""
    newest = Intervention.objects.order_by("-pk").values_list("pk", flat=True)[:LOOKED_AT_MAX]
    made = Intervention.objects.filter(
        pk__in=list(newest), kind=InterventionKind.RETRY, asked_by_id=user.pk, asked_at__gt=ServiceNow() - WINDOW
    ).exclude(asked_by__contains=APPROVED_BY)
    return made.count() + count > settings.RETRIES_ALONE_MAX


def require_alone(user: Any) -> None:
    """Raises NotPossible where one retry more takes a second person. The user's other requests wait
    for the end of this transaction, so that those of the same moment are counted, too. The row is
    taken before any lane's lock, and by nobody who approves.
    """
    try:
        DeskAccount.objects.select_for_update().filter(user_id=user.pk).first()
    except OperationalError as error:
        if gave_up_waiting(error):
            raise Busy from error
        raise
    if needs_second_person(user, 1):
        raise NotPossible("second_person", "so many retries within an hour need a second person's approval: request them again")


def propose_retries(chosen: Sequence[Clearing], reason: str, person: Actor, *, query_only: bool) -> Proposal:
    """Writes down which orders are to be retried, each as it is now."""
    orders = [[clearing.pk, clearing.epoch, clearing.order.order_id] for clearing in chosen]
    names = [clearing.order.order_id for clearing in chosen]
    return propose(
        Wanted(
            Proposal.Kind.BULK_RETRY,
            f"{len(orders)} orders are retried: {', '.join(names[:5])}{' …' if len(orders) > 5 else ''}",  # noqa: PLR2004
            {"orders": orders, "query_only": query_only},
            reason,
        ),
        person,
    )


def execute(proposal: Proposal, person: Actor) -> str:
    """Retries what is still as it was; each order in a transaction of its own, so that one that
    can't be retried keeps no other one.
    """
    publish.generation()  # read before the transactions, which only use what is known
    done, refused = 0, []
    for pk, epoch, order_id in proposal.contents["orders"]:
        problem = _retried(proposal, person, pk, epoch)
        done += not problem
        if problem:
            refused.append(f"{order_id}: {problem}")
    return "; ".join([f"retried {done} of {len(proposal.contents['orders'])}", *refused])


def _retried(proposal: Proposal, person: Actor, pk: int, epoch: int) -> str:
    """Why the order couldn't be retried; empty: it was."""
    try:
        with transaction.atomic():
            if not Clearing.objects.filter(pk=pk, epoch=epoch).exists():
                return "it changed meanwhile"
            retry_by_hand(
                pk,
                actor=f"{proposal.asked_by}{APPROVED_BY}{person.name}",
                actor_id=proposal.asked_by_id,
                reason=proposal.reason,
                query_only=proposal.contents["query_only"],
            )
    except NotPossible as refusal:
        return str(refusal)
    return ""
