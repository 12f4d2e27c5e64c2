"""What became of a batch of rows."""

from collections import Counter
from dataclasses import dataclass, field

from orders.intake.classify import Place


@dataclass(slots=True)
class IngestResult:
    """What became of a batch, in rows. `bad` and `bad_before`: the places of messages that can't be
    read or aren't valid, quarantined now or before; `not_authentic`: of those that are new, and
    nobody can show to be the counter's. `holding`: of each message, how many of its
    rows contradict accepted orders, and didn't before.
    """

    accepted: int = 0
    known: int = 0
    filtered: int = 0
    refused: int = 0
    quarantined: int = 0
    archived: int = 0
    unpublished: int = 0  # left to the sweep
    bad: set[Place] = field(default_factory=set)
    bad_before: set[Place] = field(default_factory=set)
    not_authentic: set[Place] = field(default_factory=set)
    holding: Counter[Place] = field(default_factory=Counter)

    def add(self, other: "IngestResult") -> None:
        for name in ("accepted", "known", "filtered", "refused", "quarantined", "archived", "unpublished"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bad |= other.bad
        self.bad_before |= other.bad_before
        self.not_authentic |= other.not_authentic
        self.holding += other.holding
