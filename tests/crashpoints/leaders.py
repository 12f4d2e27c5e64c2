"""Leadership: a beat that stands, leads, sends jobs under its term and hands over; and the one
after it. Rounds are made here, without the thread.
"""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from base import fence, metrics
from ops.jobs.run import run_job
from ops.leadership import LeaseCandidate
from ops.recovery.sweep import sweep_exclusively
from tests.crashpoints.clock import clock
from tests.crashpoints.process import Process

LEASE_SECONDS: Final = 4.0
LOOK_SECONDS: Final = 1.5  # of virtual time between two rounds: what a look counts at most, so that a slow machine makes no more of it
GONE_ROUNDS: Final = 2
ROUNDS_MAX: Final = 20


def _elected(process: Process) -> LeaseCandidate:
    """Stands until it leads."""
    candidate = LeaseCandidate(f"beat:{os.getpid()}", seconds=LEASE_SECONDS, clock=clock.monotonic)
    for _ in range(ROUNDS_MAX):
        candidate._campaign_round()
        if candidate._term is not None:
            return candidate
        process.advance(LOOK_SECONDS)
    raise AssertionError(f"{candidate.name} isn't elected in {ROUNDS_MAX * LOOK_SECONDS:.0f} s")


def _sweep_under(term: int | None) -> None:
    run_job("ops.sweep", lambda of_term: sweep_exclusively(of_term) is not None, term)


def lead(process: Process) -> None:
    """It is elected and confirmed again and again, and its sweep sends what is gone."""
    candidate = _elected(process)
    _go_on(process, candidate)
    _sweep_under(candidate._term)


def _go_on(process: Process, candidate: LeaseCandidate) -> None:
    """For as long as it takes until a lost message counts as gone."""
    for _ in range(GONE_ROUNDS):
        process.advance(LOOK_SECONDS)
        candidate._campaign_round()


def lead_and_hand_over(process: Process) -> None:
    """It leads, and stops as one does that is told to."""
    candidate = _elected(process)
    _go_on(process, candidate)
    _sweep_under(candidate._term)
    candidate._resigning = True
    candidate._step_down()
    candidate._lead_no_more("it stops")


def take_over(process: Process) -> None:
    """The next one is elected as soon as the one before is silent or gone; what was sent under
    earlier terms is refused from then on.
    """
    candidate = _elected(process)
    assert candidate._term is not None
    for term in range(candidate._term):
        with process.doors.paused():
            _must_be_refused(term)
    _sweep_under(candidate._term)


def _must_be_refused(term: int) -> None:
    refused = metrics.JOBS.labels("ops.sweep", metrics.JobResult.OUTDATED)
    before: Any = refused._value.get()
    _sweep_under(term)
    assert refused._value.get() > before, f"a sweep of term {term} was let through, and term {fence.current().term} is the current one"


def one_leads(term_min: int) -> Callable[[], Iterable[str]]:
    """At the end somebody leads, and the terms went on."""
    return partial(_one_leads, term_min)


def _one_leads(term_min: int) -> Iterable[str]:
    current = fence.current()
    if current.term < term_min or not current.leader:
        yield f"term {current.term} is led by {current.leader or 'nobody'}, and term {term_min} should have been reached"
