"""Where intake is wired together: ingested orders (`orders`) get clearings opened, held and
published (`clearing`).
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from time import CLOCK_BOOTTIME, clock_gettime_ns

import structlog
from django.conf import settings
from django.db import connection

from base.fence import Fence, no_fence
from base.http import SignedClient
from clearing.dispatch import publish
from clearing.opening import archived, hold, open_clearings
from clearing.store.claims import ClearingRef
from ops.jobs.exclusive import exclusive
from orders.backfill.counter_api import HttpSyncOrderInterface
from orders.backfill.gap_pass import GapPass, GapResult
from orders.backfill.reconcile import Reconcile
from orders.intake.classify import Item
from orders.intake.faults import never_succeeded, success_since
from orders.intake.first_start import current_rules
from orders.intake.ingest import AcceptedOrder, Intake, ingest, no_report
from orders.intake.result import IngestResult
from orders.models import ReconcileRun, Source

log = structlog.get_logger(__name__)
OpenClearings = Callable[[Sequence[AcceptedOrder]], Sequence[ClearingRef]]

GAP_PASS_LOCK = 0x6761705F70617373  # "gap_pass": an advisory lock of the session, so that the next pass doesn't start beside a long one
RECONCILE_LOCK = 0x7265636F6E63696C  # "reconcil"
SCAN_AGAIN_LOCK = 0x6761705F7363616E  # "gap_scan": a manual pass from an earlier time, which the periodic ones don't wait for


def ingest_from_kafka(items: Sequence[Item], after_transaction: Callable[[], None] = no_report) -> IngestResult:
    """Ingests a batch of the consumer's."""
    return _ingest(items, Source.KAFKA, after_transaction=after_transaction)


def ingest_from_gap(items: Sequence[Item], fence: Fence = no_fence, others_succeeded: Callable[[], bool] = never_succeeded) -> IngestResult:
    """Ingests a page of the counter's interface."""
    return _ingest(items, Source.GAP, fence=fence, others_succeeded=others_succeeded)


def ingest_from_replay(items: Sequence[Item]) -> IngestResult:
    """Ingests what an operator replays."""
    return _ingest(items, Source.REPLAY)


def ingest_from_restore(items: Sequence[Item]) -> IngestResult:
    """Ingests what is replayed after the database was restored. New orders may have been cleared
    before the restore: their steps are reconciled before they are sent.
    """
    return _ingest(items, Source.RESTORE, partial(open_clearings, restored=True))


def run_gap_pass(shard: int | None = None, since_ms: int | None = None, fence: Fence = no_fence) -> GapResult | None:
    """Fetches from the counter the orders that the binlog didn't bring, of one shard or of all.
    None: another pass is still running.

    `since_ms`: reads again from there (milliseconds of the counter's clock), however long that
    takes, beside the periodic passes. Raises NotStarted; under a leader's fence TermOutdated as
    soon as another process leads.
    """
    with exclusive(GAP_PASS_LOCK if since_ms is None else SCAN_AGAIN_LOCK, idle_seconds_max=_idle_seconds_max()) as ours:
        if not ours:
            log.info("gap pass skipped: the previous one is still in progress")
            return None
        gap_pass = GapPass(_interface(), _fenced_intake(fence), current_rules(), settings.GAP_OVERLAP_MS, settings.GAP_PAGE_ROWS, fence)
        return gap_pass.run(shard, since_ms)


def run_reconcile(hours: float, fence: Fence = no_fence) -> list[ReconcileRun] | None:
    """Compares our orders of the last hours with the counter's tables, and fetches what is missing.
    None: another run is still running.

    Raises NotStarted, and InterfaceFailed if the counter doesn't list its shards; under a leader's
    fence TermOutdated as soon as another process leads.
    """
    with exclusive(RECONCILE_LOCK, idle_seconds_max=_idle_seconds_max()) as ours:
        if not ours:
            log.info("reconcile skipped: the previous one is still in progress")
            return None
        reconcile = Reconcile(_interface(), _fenced_intake(fence), current_rules(), settings.GAP_PAGE_ROWS, settings.RECONCILE_SETTLE_MS, fence)
        return reconcile.run(hours)


def _fenced_intake(fence: Fence) -> Intake:
    """For one pass: if an order can't be opened, any order that was accepted since the pass began
    shows that the order is to blame, not the release.
    """
    return partial(ingest_from_gap, fence=fence, others_succeeded=success_since())


def _idle_seconds_max() -> float:
    """How long a pass's session may be idle between two statements: some calls of the counter's
    interface.
    """
    return 4 * settings.GATEWAY_DEADLINE_MS / 1000 + 10


def _ingest(
    items: Sequence[Item],
    source: Source,
    opens: OpenClearings = open_clearings,
    fence: Fence = no_fence,
    others_succeeded: Callable[[], bool] = never_succeeded,
    after_transaction: Callable[[], None] = no_report,
) -> IngestResult:
    publish.generation()  # read here, where no transaction is open: it is known inside
    return ingest(
        items,
        source=source,
        open_clearings=opens,
        hold=hold,
        publish=publish.publish,
        archived=archived,
        fence=fence,
        others_succeeded=others_succeeded,
        after_transaction=after_transaction,
    )


def _interface() -> HttpSyncOrderInterface:
    return HttpSyncOrderInterface(_counter(), deadline_ms=settings.GATEWAY_DEADLINE_MS, now_ms=_database_clock())


@cache
def _counter() -> SignedClient:
    return SignedClient(settings.COUNTERPARTY_URLS["counter"], settings.COUNTERPARTY_KEYS["counter"])


def _database_clock() -> Callable[[], int]:
    """The database's time, in milliseconds, to sign requests with: read once, then carried on by
    CLOCK_BOOTTIME, which counts through a suspended machine.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT (extract(epoch FROM service_now()) * 1000)::bigint")
        offset_ms = cursor.fetchone()[0] - _boottime_ms()
    return lambda: offset_ms + _boottime_ms()


def _boottime_ms() -> int:
    return clock_gettime_ns(CLOCK_BOOTTIME) // 1_000_000
