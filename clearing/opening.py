"""What intake is handed by the commands in ops: how an accepted order becomes a clearing, and how
it is held.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from base.alarms import alarm
from base.clock import ServiceNow
from clearing.dispatch import broker, publish
from clearing.flow.flows import OrderFacts
from clearing.models import Clearing
from clearing.status import State
from clearing.store import claims
from clearing.store.claims import ClearingRef
from orders.intake.ingest import AcceptedOrder

ACTOR = "intake"


def open_clearings(accepted: Sequence[AcceptedOrder], *, restored: bool = False) -> list[ClearingRef]:
    """Opens the clearings in the open transaction that inserted the orders. Returns what to publish
    after the commit.

    `restored`: the orders come from a replay after the database was restored: each of their
    steps is reconciled before it is sent.
    """
    orders = [(order.sync_order_id, _facts(order.order)) for order in accepted]
    return claims.accept(orders, actor=ACTOR, generation=broker.last_generation(), restored=restored)


def hold(order_id: str, code: str) -> None:
    """Sets a hold on the order's clearing, in the open transaction; an order that is already
    cleared only raises the alarm.
    """
    found, following = claims.hold(order_id, code, actor=ACTOR, generation=broker.last_generation())
    alarm(code, "an accepted order changed at the counter", order_id=order_id, state=found or "", already_cleared=found == State.CLEARED)
    if following:
        transaction.on_commit(lambda: publish.publish([following]))


def archived(order_ids: Collection[str]) -> set[str]:
    """Those of the orders that are cleared or voided for longer than RECONCILE_HOURS: nobody
    compares them any more, and the counter may delete its rows.
    """
    long_ago = ServiceNow() - timedelta(hours=settings.RECONCILE_HOURS)
    finished = Clearing.objects.filter(order__order_id__in=sorted(order_ids), state__in=[State.CLEARED, State.VOIDED], changed_at__lt=long_ago)
    return set(finished.values_list("order__order_id", flat=True))


def _facts(order: object) -> OrderFacts:
    names = ("order_id", "user_id", "contract_id", "direction", "asset", "quantity", "quoted_usdt")
    return OrderFacts(*(getattr(order, name) for name in names))
