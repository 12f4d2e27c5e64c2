"""The periodic jobs, sent by the leader's beat to the `ops` queue, whose workers run nothing else.
`ops/jobs/run.py` runs each under its term.
"""

from typing import Final

import structlog
from django.conf import settings

from base.fence import Fence
from ops.jobs.backoff import Backoff
from ops.jobs.run import periodic_job, run_job
from ops.liveness.watcher import watcher
from ops.recovery.probe import in_background, probe_all
from ops.recovery.sweep import sweep_exclusively
from ops.recovery.tidy import run_tidy
from ops.seals.job import seal_history
from ops.wiring import run_gap_pass, run_reconcile
from orders.backfill.counter_api import InterfaceFailed
from orders.backfill.gap_pass import SHARD_LIST
from orders.intake.first_start import NotStarted

log = structlog.get_logger(__name__)
SWEEP: Final = "ops.sweep"
counter_backoff = Backoff()  # of this process


def _sweep(fence: Fence) -> bool:
    """Dispatches what was interrupted. Who sweeps also looks on between the sweeps."""
    watcher.start(sweep_now)
    return sweep_exclusively(fence) is not None


def sweep_now() -> None:
    """A sweep that nobody sent, under the term that is the current one. Raises what the job
    raises.
    """
    run_job(SWEEP, _sweep, None)


sweep = periodic_job(SWEEP)(_sweep)


@periodic_job("ops.probe")
def probe(fence: Fence) -> bool:
    """Asks the counterparties that aren't called whether they are back."""
    probe_all(fence=fence, start=in_background)
    return True


@periodic_job("ops.gap_pass")
def gap_pass(fence: Fence) -> bool:
    """Fetches from the counter what the binlog didn't bring; a counter that doesn't list its shards
    is asked more rarely.
    """
    if not counter_backoff.may_ask():
        return True
    try:
        result = run_gap_pass(fence=fence)
    except NotStarted as error:
        log.info("gap pass rests before the first start", why=str(error))
        return True
    if result is not None:
        counter_backoff.record(success=SHARD_LIST not in result.failed)
    return result is not None


@periodic_job("ops.tidy")
def tidy(fence: Fence) -> bool:
    """Deletes what nobody needs any more: sessions that have ended, messages that were replayed."""
    run_tidy(fence)
    return True


@periodic_job("ops.seal")
def seal(fence: Fence) -> bool:
    """Seals what was appended to history, and looks whether the past is as it was sealed."""
    return seal_history(fence)


@periodic_job("ops.reconcile")
def reconcile(fence: Fence) -> bool:
    """Compares the last hours' orders with the counter's own tables."""
    try:
        return run_reconcile(settings.RECONCILE_HOURS, fence=fence) is not None
    except NotStarted as error:
        log.info("reconcile rests before the first start", why=str(error))
        return True
    except InterfaceFailed as error:
        log.warning("reconcile failed", error=str(error), fix="nothing: the next run compares the same hours")
        return True
