"""What intake is handed by the commands in ops: how an accepted order becomes a clearing, and how
it is held.
"""

from collections.abc import Sequence

from django.db import transaction

from base.alarms import alarm
from clearing.dispatch import broker, publish
from clearing.flow.flows import OrderFacts
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


def _facts(order: object) -> OrderFacts:
    names = ("order_id", "user_id", "contract_id", "direction", "asset", "quantity", "quoted_usdt")
    return OrderFacts(*(getattr(order, name) for name in names))
