"""How a periodic job is run: under the fence of the term that its message carries, whoever leads by
the time it comes to it.

The term travels in a header of the message, not among the task's arguments, so that a worker of the
release before, which knows of no term, takes the job all the same. A job without one (that
release's beat, or a person's `celery call`) runs under the term that is the current one when it
starts: it was meant for now, and is fenced off from there on.
"""

from collections.abc import Callable
from typing import Any, Final

import structlog
from celery import shared_task

from base import fence, metrics
from base.db import drop_broken_connection
from base.fence import Fence, TermOutdated, fence_of
from base.metrics import JobResult

log = structlog.get_logger(__name__)
TERM_HEADER: Final = "term"
Job = Callable[[Fence], bool]  # False: the previous run is still in progress, and this one was skipped


def periodic_job(name: str) -> Callable[[Job], Any]:
    """Registers a periodic job as the task of that name."""

    def register(job: Job) -> Any:
        @shared_task(name=name, bind=True)
        def run(task: Any) -> None:
            run_job(name, job, task.request.get(TERM_HEADER))

        return run

    return register


def run_job(name: str, job: Job, term: int | None) -> None:
    """Runs it under the fence of its term, and counts what became of it. Any error is
    raised.
    """
    drop_broken_connection()
    result = JobResult.FAILED
    try:
        done = job(fence_of(fence.current().term if term is None else term))
        result = JobResult.DONE if done else JobResult.BUSY
    except TermOutdated as error:
        result = JobResult.OUTDATED
        log.info("job left: another leads by now", job=name, why=str(error))
    finally:
        metrics.JOBS.labels(name, result).inc()
