"""Measures this machine before a run relies on it: how slow it is beside the reference machine, and
how many orders a second the service clears on it.

Times in docs and suites are meant on two quiet cores of the reference machine. `slowness()` runs
one fixed loop on two cores at once; deadlines are multiplied by its factor, which is printed beside
them. `Rate` takes a share of what a short burst showed that the machine holds.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import psycopg2

from benchmarks.errors import BenchmarkError

REFERENCE_SECONDS = 0.58  # of the loop, on each of two quiet cores of the machine that the times were measured on
CORES = 2
TRIES = 2
SHARE = 0.5  # of what the machine holds; the rest is for what the run itself does (restarts, catching up)
RATE_MIN = 2.0
WARM_UP_ORDERS, TRIAL_ORDERS = 60, 240
TRIAL_IN_ALL = WARM_UP_ORDERS + TRIAL_ORDERS
TRIAL_RATE = 1_000.0  # faster than any machine clears
TRIAL_SECONDS_MAX = 60.0
LOOK_SECONDS = 0.25
LOOP_SECONDS_MAX = 120
LOOP = """
import time
began = time.perf_counter()
table = {}
for n in range(600_000):
    key = str(n % 5_000)
    table[key] = table.get(key, 0) + len(key) * (n & 7)
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Slowness:
    """How many times as long as on the reference machine the loop took; never below 1."""

    factor: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"this machine is {self.factor:.1f} times as slow as the reference (the loop took {self.seconds:.2f} s, there {REFERENCE_SECONDS:.2f} s)"
        )

    def scaled(self, seconds: float) -> float:
        """A time that is meant on two quiet cores, on this machine."""
        return seconds * self.factor


@cache
def slowness() -> Slowness:
    """Measures once a process; the best of a few tries counts. Raises BenchmarkError."""
    seconds = min(_loop_seconds() for _ in range(TRIES))
    return Slowness(max(1.0, seconds / REFERENCE_SECONDS), seconds)


def _loop_seconds() -> float:
    """Of the loop on two cores at once; the slower one counts."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True) for _ in range(CORES)]
    printed = [loop.communicate(timeout=LOOP_SECONDS_MAX)[0] for loop in loops]
    if any(loop.returncode for loop in loops):
        raise BenchmarkError(f"the calibration loop ended with {[loop.returncode for loop in loops]}")
    return max(float(text) for text in printed)


@dataclass(frozen=True)
class Rate:
    """Orders a second that a run places. `holds`: what the machine showed; None where the rate was
    given.
    """

    places: float
    holds: float | None = None

    @classmethod
    def of(cls, holds: float, at_most: float) -> "Rate":
        """A share of what the machine holds, at most what the run places on the reference
        machine.
        """
        if not holds > 0:
            raise BenchmarkError(f"the machine holds {holds} orders/s: nothing was cleared in the trial")
        return cls(min(at_most, max(RATE_MIN, float(int(SHARE * holds)))), holds)

    def halves(self) -> list["Rate"]:
        """The rate, half of it, and so on down to RATE_MIN."""
        lower = replace(self, places=max(RATE_MIN, float(int(self.places / 2))))
        return [self, *(lower.halves() if self.places > RATE_MIN else [])]

    def as_json(self) -> dict[str, Any]:
        """For a report, beside how slow the machine is."""
        return {**asdict(self), "slowness": round(slowness().factor, 2)}

    def __str__(self) -> str:
        if self.holds is None:
            return f"the run places {self.places:g} orders/s, as given"
        return f"this machine holds {self.holds:.0f} orders/s; the run places {self.places:g}/s"


_TRIAL = """
    SELECT count(*) FILTER (WHERE state = 'cleared'), count(*), extract(epoch FROM max(cleared_at))::float8 * 1000 - min(created_ms)
    FROM clearing_clearing WHERE created_ms >= %s
"""


def held(place: Callable[[int, float], object], database_url: str) -> float:
    """Orders a second that a running service clears while they are placed as fast as can be:
    `place(count, rate)` returns when all are placed. Places TRIAL_IN_ALL orders. Raises
    BenchmarkError when they aren't cleared in time.
    """
    _trial(place, database_url, WARM_UP_ORDERS)
    return _trial(place, database_url, TRIAL_ORDERS)


def _trial(place: Callable[[int, float], object], database_url: str, orders: int) -> float:
    began_ms = int(time.time() * 1000)
    place(orders, TRIAL_RATE)
    seconds_max = slowness().scaled(TRIAL_SECONDS_MAX)
    deadline = time.monotonic() + seconds_max
    while True:
        cleared, placed, milliseconds = _read_trial(database_url, began_ms)
        if placed >= orders and cleared == placed:
            return 1000 * cleared / milliseconds
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{cleared} of {orders} trial orders were cleared within {seconds_max:.0f} s; {slowness()}")
        time.sleep(LOOK_SECONDS)


def _read_trial(database_url: str, began_ms: int) -> tuple[int, int, float]:
    session = psycopg2.connect(database_url)
    try:
        with session.cursor() as cursor:
            cursor.execute(_TRIAL, [began_ms])
            cleared, placed, milliseconds = cursor.fetchone() or (0, 0, None)
            return int(cleared), int(placed), float(milliseconds or 0)
    finally:
        session.close()
