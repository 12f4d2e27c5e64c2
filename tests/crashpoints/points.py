"""Where a process may die: before or after an effect at one of its doors, and, of a call, while it
is still on its way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    BEFORE = "before"  # the effect never happens
    ON_ITS_WAY = "on its way"  # of a call: sent, and applied only when somebody has asked for its key
    AFTER = "after"  # it happened; whoever caused it never learns of it


PHASES = {
    "db": (Phase.BEFORE, Phase.AFTER),
    "broker": (Phase.BEFORE, Phase.AFTER),
    "call": (Phase.BEFORE, Phase.ON_ITS_WAY, Phase.AFTER),
    "log": (Phase.BEFORE, Phase.AFTER),
}


@dataclass(frozen=True, slots=True)
class Point:
    """One boundary: the nth effect of its label in a process's life."""

    label: str  # the door's name comes first: db, broker, call, log
    nth: int
    phase: Phase

    def __str__(self) -> str:
        return f"{self.phase} {self.label} #{self.nth}"

    @property
    def kind(self) -> str:
        """What it has in common with others: of each kind a sample holds at least one."""
        return f"{self.phase} {self.label}"


@dataclass(slots=True)
class Event:
    """Something that went through a door. What wrote nothing is no effect, and no boundary."""

    label: str
    nth: int
    wrote: bool = True

    def points(self) -> list[Point]:
        """The boundaries at it."""
        return [Point(self.label, self.nth, phase) for phase in PHASES[self.label.partition(" ")[0]]] if self.wrote else []


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to become of a process: it dies at a point, or lives; `records` looks at each
    statement, whether it wrote.
    """

    dies_at: Point | None = None
    records: bool = False


def points_of(trace: Iterable[Event]) -> list[Point]:
    """Every boundary of a recorded life, in order."""
    return [point for event in trace for point in event.points()]


def apart(points: Sequence[Point]) -> list[Point]:
    """Those that leave different things behind: to die before an effect is to die after the one
    before it, unless something slips past the doors.
    """
    return [point for place, point in enumerate(points) if not place or point.phase != Phase.BEFORE]


@dataclass(slots=True)
class Ending:
    """How a process ended: at its point, by itself, or by a mistake that `error` tells."""

    died: bool = False
    error: str = ""
    trace: Sequence[Event] = field(default_factory=list)
    broken: Sequence[str] = field(default_factory=list)  # rules that it broke while it lived
