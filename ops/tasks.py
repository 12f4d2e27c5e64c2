"""The periodic jobs, sent by the leader's beat to the `ops` queue, whose workers run nothing else. `ops/jobs.py` runs each under its term."""

import structlog
from django.conf import settings

from base.fence import Fence
from ops.intake import run_gap_pass, run_reconcile
from ops.jobs import periodic_job
from ops.patience import Patience
from ops.probe import probe_all
from ops.sweep import sweep_alone
from orders.gaps import SHARD_LIST
from orders.interface import InterfaceFailed

log = structlog.get_logger(__name__)
counter_patience = Patience()  # of this process


@periodic_job("ops.sweep")
def sweep(fence: Fence) -> bool:
    """Dispatches what was interrupted."""
    return sweep_alone(fence) is not None


@periodic_job("ops.probe")
def probe(fence: Fence) -> bool:
    """Asks the counterparties that aren't called whether they are back."""
    probe_all(fence=fence)
    return True


@periodic_job("ops.gap_pass")
def gap_pass(fence: Fence) -> bool:
    """Fetches from the counter what the binlog didn't bring; a counter that doesn't list its shards is asked more rarely."""
    if not counter_patience.may_ask():
        return True
    result = run_gap_pass(fence=fence)
    if result is not None:
        counter_patience.heard(answered=SHARD_LIST not in result.failed)
    return result is not None


@periodic_job("ops.reconcile")
def reconcile(fence: Fence) -> bool:
    """Compares the last hours' orders with the counter's own tables."""
    try:
        return run_reconcile(settings.RECONCILE_HOURS, fence=fence) is not None
    except InterfaceFailed as error:
        log.warning("reconcile failed", error=str(error), fix="nothing: the next run compares the same hours")
        return True
