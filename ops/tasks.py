"""The periodic jobs, sent by beat to the `ops` queue, whose workers run nothing else."""

import structlog
from celery import shared_task
from django.conf import settings

from base.db import drop_broken_connection
from ops.intake import run_gap_pass, run_reconcile
from ops.sweep import sweep as run_sweep
from orders.interface import InterfaceFailed

log = structlog.get_logger(__name__)


@shared_task(name="ops.sweep")
def sweep() -> None:
    """Dispatches what was interrupted."""
    drop_broken_connection()
    run_sweep()


@shared_task(name="ops.gap_pass")
def gap_pass() -> None:
    """Fetches from the counter what the binlog didn't bring."""
    drop_broken_connection()
    run_gap_pass()


@shared_task(name="ops.reconcile")
def reconcile() -> None:
    """Compares the last hours' orders with the counter's own tables."""
    drop_broken_connection()
    try:
        run_reconcile(settings.RECONCILE_HOURS)
    except InterfaceFailed as error:
        log.warning("reconcile failed", error=str(error), fix="nothing: the next run compares the same hours")
