"""The periodic jobs, sent by beat to the `ops` queue, whose workers run nothing else."""

import structlog
from celery import shared_task
from django.conf import settings

from base.db import drop_broken_connection
from ops.intake import run_gap_pass, run_reconcile
from ops.patience import Patience
from ops.sweep import sweep as run_sweep
from ops.watcher import watcher
from orders.gaps import SHARD_LIST
from orders.interface import InterfaceFailed

log = structlog.get_logger(__name__)
counter_patience = Patience()  # of this process


@shared_task(name="ops.sweep")
def sweep() -> None:
    """Dispatches what was interrupted. Who sweeps also looks on between the sweeps."""
    watcher.start()
    drop_broken_connection()
    run_sweep()


@shared_task(name="ops.gap_pass")
def gap_pass() -> None:
    """Fetches from the counter what the binlog didn't bring; a counter that doesn't list its shards is asked more rarely."""
    if not counter_patience.may_ask():
        return
    drop_broken_connection()
    result = run_gap_pass()
    if result is not None:
        counter_patience.heard(answered=SHARD_LIST not in result.failed)


@shared_task(name="ops.reconcile")
def reconcile() -> None:
    """Compares the last hours' orders with the counter's own tables."""
    drop_broken_connection()
    try:
        run_reconcile(settings.RECONCILE_HOURS)
    except InterfaceFailed as error:
        log.warning("reconcile failed", error=str(error), fix="nothing: the next run compares the same hours")
