"""Measures this machine before a run relies on it: how slow it is beside the reference machine, and
how many orders a second the service clears on it.

Times in docs and suites are meant on two quiet cores of the reference machine. `slowness()` runs
one fixed loop on two cores at once; deadlines are multiplied by its factor, which is printed beside
them. `Rate` takes a share of what a short burst showed that the machine holds.
"""

import subprocess
import sys
from dataclasses import dataclass
from functools import cache

REFERENCE_SECONDS = 0.50  # of the loop, on each of two quiet cores of the machine that the times were measured on
CORES = 2
TRIES = 2
SHARE = 0.5  # of what the machine holds; the rest is for what the run itself does (restarts, catching up)
RATE_MIN = 2.0
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


class MeasuringError(Exception):
    """The machine couldn't be measured; the text says why."""


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
    """Measures once a process; the best of a few tries counts. Raises MeasuringError."""
    seconds = min(_loop_seconds() for _ in range(TRIES))
    return Slowness(max(1.0, seconds / REFERENCE_SECONDS), seconds)


def _loop_seconds() -> float:
    """Of the loop on two cores at once; the slower one counts."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True) for _ in range(CORES)]
    printed = [loop.communicate(timeout=LOOP_SECONDS_MAX)[0] for loop in loops]
    if any(loop.returncode for loop in loops):
        raise MeasuringError(f"the calibration loop ended with {[loop.returncode for loop in loops]}")
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
            raise MeasuringError(f"the machine holds {holds} orders/s: nothing was cleared in the trial")
        return cls(max(RATE_MIN, min(at_most, float(int(SHARE * holds)))), holds)

    def __str__(self) -> str:
        if self.holds is None:
            return f"the run places {self.places:g} orders/s, as it was told to"
        return f"this machine holds {self.holds:.0f} orders/s; the run places {self.places:g}/s"
