"""Where intake is wired together: rows of `orders` open, hold and publish the clearings of
`clearing`.
"""

import time
from collections.abc import Callable, Sequence
from functools import cache, partial

import structlog
from django.conf import settings
from django.db import connection

from base.fence import Fence, no_fence
from base.http import SignedClient
from clearing.dispatch import publish
from clearing.opening import hold, open_clearings
from clearing.store.claims import ClearingRef
from ops.jobs.exclusive import exclusive
from orders.backfill.counter_api import HttpSyncOrderInterface
from orders.backfill.gap_pass import GapPass, GapResult
from orders.backfill.reconcile import Reconcile
from orders.intake.classify import Item
from orders.intake.faults import never_succeeded, success_since
from orders.intake.ingest import AcceptedOrder, IngestResult, Intake, ingest
from orders.intake.mapping import Rules
from orders.models import ReconcileRun, Source

log = structlog.get_logger(__name__)
OpenClearings = Callable[[Sequence[AcceptedOrder]], Sequence[ClearingRef]]

GAP_PASS_LOCK = 0x6761705F70617373  # "gap_pass": an advisory lock of the session, so that a long pass isn't joined by the next
RECONCILE_LOCK = 0x7265636F6E63696C  # "reconcil"
SCAN_AGAIN_LOCK = 0x6761705F7363616E  # "gap_scan": a pass by hand from an earlier time, which the periodic ones don't wait for


def ingest_from_kafka(items: Sequence[Item]) -> IngestResult:
    """Takes a batch of the consumer's in."""
    return _ingest(items, Source.KAFKA)


def ingest_from_gap(items: Sequence[Item], fence: Fence = no_fence, others_succeeded: Callable[[], bool] = never_succeeded) -> IngestResult:
    """Takes a page of the counter's interface in."""
    return _ingest(items, Source.GAP, fence=fence, others_succeeded=others_succeeded)


def ingest_from_replay(items: Sequence[Item]) -> IngestResult:
    """Takes in what somebody replays."""
    return _ingest(items, Source.REPLAY)


def ingest_from_restore(items: Sequence[Item]) -> IngestResult:
    """Takes in what is replayed after the database was restored: what is new may have been run
    before, and is reconciled before anything is sent again.
    """
    return _ingest(items, Source.RESTORE, partial(open_clearings, restored=True))


def run_gap_pass(shard: int | None = None, since_ms: int | None = None, fence: Fence = no_fence) -> GapResult | None:
    """Fetches from the counter what the binlog didn't bring, of one shard or of all. None: another
    pass is still in progress.

    `since_ms`: reads again from there (milliseconds of the counter's clock), however long that
    takes, beside the periodic passes. Under a leader's fence it raises TermOutdated as soon as
    another leads.
    """
    with exclusive(GAP_PASS_LOCK if since_ms is None else SCAN_AGAIN_LOCK, idle_seconds_max=_idle_seconds_max()) as ours:
        if not ours:
            log.info("gap pass skipped: the previous one is still in progress")
            return None
        gap_pass = GapPass(_interface(), _fenced_intake(fence), Rules.from_settings(), settings.GAP_OVERLAP_MS, settings.GAP_PAGE_ROWS, fence)
        return gap_pass.run(shard, since_ms)


def run_reconcile(hours: float, fence: Fence = no_fence) -> list[ReconcileRun] | None:
    """Compares our orders of the last hours with the counter's tables, and fetches what is missing.
    None: another run is still in progress.

    Raises InterfaceFailed if the counter doesn't list its shards; under a leader's fence
    TermOutdated as soon as another leads.
    """
    with exclusive(RECONCILE_LOCK, idle_seconds_max=_idle_seconds_max()) as ours:
        if not ours:
            log.info("reconcile skipped: the previous one is still in progress")
            return None
        reconcile = Reconcile(_interface(), _fenced_intake(fence), Rules.from_settings(), settings.GAP_PAGE_ROWS, settings.RECONCILE_SETTLE_MS, fence)
        return reconcile.run(hours)


def _fenced_intake(fence: Fence) -> Intake:
    """For one pass: whose fault it is that an order can't be opened is judged by all orders that
    got in since it began.
    """
    return partial(ingest_from_gap, fence=fence, others_succeeded=success_since())


def _idle_seconds_max() -> float:
    """Of a session between two statements of a pass: some calls of the counter's interface."""
    return 4 * settings.GATEWAY_DEADLINE_MS / 1000 + 10


def _ingest(
    items: Sequence[Item],
    source: Source,
    opens: OpenClearings = open_clearings,
    fence: Fence = no_fence,
    others_succeeded: Callable[[], bool] = never_succeeded,
) -> IngestResult:
    publish.generation()  # read here, where no transaction is open, it is known inside
    return ingest(items, source=source, open_clearings=opens, hold=hold, publish=publish.publish, fence=fence, others_succeeded=others_succeeded)


def _interface() -> HttpSyncOrderInterface:
    return HttpSyncOrderInterface(_counter(), deadline_ms=settings.GATEWAY_DEADLINE_MS, now_ms=_database_clock())


@cache
def _counter() -> SignedClient:
    return SignedClient(settings.COUNTERPARTY_URLS["counter"], settings.COUNTERPARTY_KEYS["counter"])


def _database_clock() -> Callable[[], int]:
    """The database's time now, carried on by this process: what requests are signed with."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT (extract(epoch FROM service_now()) * 1000)::bigint")
        offset_ms = cursor.fetchone()[0] - time.monotonic_ns() // 1_000_000
    return lambda: offset_ms + time.monotonic_ns() // 1_000_000
