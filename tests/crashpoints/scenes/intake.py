"""Orders on their way in: the consumer, the gap pass, reconcile, replays, and what follows a
restore.
"""

from collections.abc import Iterable
from typing import Any, Final

from orders.models import Quarantined, ReconcileRun
from tests.crashpoints import operators, people, service
from tests.crashpoints.points import Phase
from tests.crashpoints.scenario import A1, A2, B1, C1, Life, Order, Scenario, call_of
from tests.orders.messages import message, updated

TOGETHER: Final = (A1, A2, B1)
FEW_ROWS: Final = {"INTAKE_BATCH_ROWS_MAX": 2}
PAGES: Final = {"GAP_PAGE_ROWS": 2}


def scenarios() -> list[Scenario]:
    """Those of this module."""
    return [*_stream(), *_interface(), *_replays(), *_restores()]


def _mixed_messages(orders: tuple[Order, ...], start_ms: int) -> list[bytes]:
    """Orders of two users, one that comes twice, one that changes at the counter, and what nobody
    can read.
    """
    first, second, other = (message(order.row(start_ms)) for order in orders)
    changed = updated(orders[2].row(start_ms, quantity="0.070000000000000000"), quantity="0.050000000000000000")
    return [first, b"{", second, first, other, changed]


def _stream() -> list[Scenario]:
    common: dict[str, Any] = {"orders": TOGETHER, "lives": (), "act": service.consume, "again": service.consume}
    held = {"B1": frozenset({"contents_differ"})}
    return [
        Scenario(name="ingest/consumer", double=True, **common),
        Scenario(name="ingest/mixed", settings=FEW_ROWS, ends=held, messages=_mixed_messages, **common),
    ]


def _interface() -> list[Scenario]:
    common: dict[str, Any] = {"orders": TOGETHER, "lives": (), "by_interface": True}
    settled = {**PAGES, "RECONCILE_SETTLE_MS": 0}
    return [
        Scenario(name="ingest/gap", act=operators.gap_pass, again=operators.gap_pass, settings=PAGES, **common),
        Scenario(name="ingest/gap_job", act=operators.gap_job, again=operators.gap_job, settings=PAGES, double=True, **common),
        Scenario(
            name="ingest/reconcile",
            orders=TOGETHER,
            messages=_first_alone,
            unsynced=frozenset({"B1"}),
            act=operators.reconcile_job,
            again=operators.reconcile_job,
            settings=settled,
            also=_reconciled,
        ),
    ]


def _first_alone(orders: tuple[Order, ...], start_ms: int) -> list[bytes]:
    return [message(orders[0].row(start_ms))]


def _reconciled() -> Iterable[str]:
    last = ReconcileRun.objects.order_by("-pk").first()
    if last is None or last.error or last.unresolved or last.unknown:
        yield f"the last reconcile says {vars(last) if last else 'nothing'}"


def _replays() -> list[Scenario]:
    refused = (Life(service.consume_without_eth),)
    skipped = (Life(operators.skip_the_log),)
    quarantine, by_hand = operators.replay("--quarantined"), people.replay_quarantine
    topic = operators.replay("--from-offset", "0", "--to-offset", "99")
    orders = (A1, B1, Order("C1", "1003", 5, asset="ETH"))
    common: dict[str, Any] = {"orders": orders, "lives": refused, "also": _nothing_in_quarantine}
    return [
        Scenario(name="replay/quarantine", act=quarantine, again=quarantine, double=True, **common),
        Scenario(name="replay/by_hand", act=by_hand, again=by_hand, **common),
        Scenario(name="replay/topic", orders=TOGETHER, lives=skipped, act=topic, again=topic, settings=FEW_ROWS),
    ]


def _nothing_in_quarantine() -> Iterable[str]:
    for row in Quarantined.objects.filter(replayed_at=None):
        yield f"a message of {row.order_id} waits in quarantine ({row.reason})"


def _restores() -> list[Scenario]:
    marked: dict[str, Any] = {"orders": TOGETHER, "act": operators.mark_restored, "again": operators.mark_restored}
    midway = (Life(service.consume), Life(service.work_one, call_of(3, Phase.AFTER)))
    emptied = (Life(service.consume), Life(service.work_one), Life(operators.lose_the_database))
    restore = operators.mark_and_replay
    return [
        Scenario(name="restore/queued", **marked),
        Scenario(name="restore/midway", lives=midway, double=True, **marked),
        Scenario(name="restore/replay", orders=(A1, A2, C1), lives=emptied, act=restore, again=restore, double=True),
    ]
