"""The periodic jobs, sent by beat to the `ops` queue, whose workers run nothing else."""

from celery import shared_task

from base.db import drop_broken_connection
from ops.intake import run_gap_pass
from ops.sweep import sweep as run_sweep


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
