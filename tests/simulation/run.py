"""One run: an empty database, a world, and the judgement.

`python -m tests.simulation.run ORDERS SEED` runs one on the DATABASE_URL that it is given.
"""

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import django
import structlog

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "acceptance_site.settings"
    django.setup()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # a line costs as much as a call

from django.conf import settings
from django.db import connection

from clearing.dispatch import broker
from ops.recovery import sweep
from tests.simulation.doors import FIXED_CLOCK, open_doors
from tests.simulation.judge import Judged, judged, shortest_history
from tests.simulation.scheduler import share_connection
from tests.simulation.world import World
from tests.support.desk import ann_and_ben
from tests.support.states import rewritable

EMPTY = (
    "TRUNCATE orders_syncorder, orders_watermark, orders_quarantined, base_incarnation, clearing_standing, clearing_standingchange, clearing_pause"
    " RESTART IDENTITY CASCADE"
)
RETENTION_SECONDS = 20  # after which a key isn't sent again; the counterparties keep it longer (counterparties.KEPT_MS)
SESSION = "SET synchronous_commit = off; SET statement_timeout = 0; SET transaction_timeout = 0; SET lock_timeout = '10s'"


@dataclass(frozen=True)
class Found:
    """What a run came to."""

    world: World
    judged: Judged
    seconds: float
    history: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No violation."""
        return self.judged.passed

    def report(self) -> dict[str, Any]:
        """Its figures."""
        world = self.world
        return {
            "seed": world.seed,
            "orders": world.orders,
            "passed": self.passed,
            **self.judged.counts(),
            "virtual_seconds": round(world.scheduler.now, 1),
            "steps": world.scheduler.steps,
            "digest": f"{world.scheduler.digest:08x}",
            "deaths": dict(sorted(world.deaths.items())),
            "faulty_answers": dict(sorted(world.counterparties.faults.items())),
            "messages": {"lost": world.broker.lost, "repeated": world.broker.repeated, "wiped": world.broker.wiped},
            "sweeps_fenced_off": world.outdated,
            "calls_broken": world.doors.broken,
            "not_logged": world.counter.not_logged,
            "changed": world.counter.changed,
            "keys_forgotten": world.counterparties.forgotten,
            "people": dict(sorted(world.people.done.items())),
            "parked": self.judged.parked,
            "breakers_opened": self.judged.breakers_opened,
            "seconds": round(self.seconds, 1),
            "orders_per_second": round(world.orders / self.seconds),
        }


def simulate(orders: int, seed: int, progressed: Callable[[int], None] = lambda _: None) -> Found:
    """Runs one seed on a database that has its schema and is emptied first; `progressed` is told
    how many orders were placed.
    """
    prepare()
    started = time.monotonic()
    world = World(orders, seed, progressed)
    in_place, retention = settings.CLEARING_RUN_STEPS_INLINE, settings.KEY_RETENTION_SECONDS
    settings.KEY_RETENTION_SECONDS = RETENTION_SECONDS
    try:
        with open_doors(world.doors, world.broker, Random(seed)):
            world.run()
    finally:
        settings.CLEARING_RUN_STEPS_INLINE, settings.KEY_RETENTION_SECONDS = in_place, retention
    result = judged(world)
    seconds = time.monotonic() - started
    return Found(world, result, seconds, [] if result.passed else shortest_history(world, result.broken))


def prepare() -> None:
    """No rows but people, and the simulation's clock."""
    with connection.cursor() as cursor:
        with rewritable():
            cursor.execute(EMPTY)
        cursor.execute(FIXED_CLOCK)
        cursor.execute(SESSION)
    ann_and_ben()
    share_connection()
    broker._known.value, broker._known.read_at = "", float("-inf")
    sweep._walk.after = ""


def _share_a_processor(number: int) -> None:
    """Puts this process and its PostgreSQL backend onto one processor: only one of all the threads
    and the two processes ever runs, and a wake-up across processors costs more than what it wakes
    up for.
    """
    cpus = sorted(os.sched_getaffinity(0))
    cpu = {cpus[number % len(cpus)]}
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        os.sched_setaffinity(cursor.fetchone()[0], cpu)
    os.sched_setaffinity(0, cpu)


def _say_progress(placed: int) -> None:
    sys.stdout.write(json.dumps({"placed": placed}) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Prints its figures as JSON, after lines that say how far it is, and after a violation the
    shortest history of a broken order.
    """
    orders, seed = map(int, sys.argv[1:])
    if "SIMULATION_SLOT" in os.environ:
        _share_a_processor(int(os.environ["SIMULATION_SLOT"]))
    gc.freeze()  # what was imported is no garbage
    found = simulate(orders, seed, _say_progress)
    sys.stdout.write(json.dumps(found.report()) + "\n")
    if found.history:
        sys.stderr.write(f"VIOLATION, seed {seed}; the shortest history of a broken order:\n  " + "\n  ".join(found.history) + "\n")
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
