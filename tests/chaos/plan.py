"""Which faults come, in which order and for how long: all of it from the seed."""

from dataclasses import dataclass
from random import Random
from typing import Final

EXTRA_EVERY: Final = 20  # of processes' and servers' faults to one of the messages'


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what is done to whom. `weight`: how often, beside the others; `seconds`: how
    long it lasts, where it lasts.
    """

    target: str
    how: str
    weight: int
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        """As the report calls it."""
        return f"{self.target}_{self.how}".replace("-", "_")


FROZEN: Final = (1.0, 5.0)  # shorter and longer than the silence that makes a process dead
KINDS: Final = (
    Kind("worker", "kill", 9),
    Kind("worker", "term", 3),
    Kind("worker", "freeze", 3, FROZEN),
    Kind("consumer", "kill", 2),
    Kind("consumer", "term", 1),
    Kind("consumer", "freeze", 1, FROZEN),
    Kind("beat", "kill", 1),
    Kind("beat", "term", 1),
    Kind("beat", "freeze", 1, FROZEN),
    Kind("worker-ops", "kill", 2),
    Kind("worker-ops", "term", 1),
    Kind("worker-ops", "freeze", 1, FROZEN),
    Kind("worker-suspects", "kill", 1),
    Kind("sandbox", "kill", 2),
    Kind("sandbox", "term", 1),
    Kind("sandbox", "freeze", 1, FROZEN),
    Kind("valkey", "restart", 1),
    Kind("valkey", "kill", 2),
    Kind("valkey", "freeze", 1, FROZEN),
    Kind("valkey", "flushall", 2),
    Kind("valkey", "flushall-backlog", 3),
    Kind("postgres", "fast", 2),
    Kind("postgres", "immediate", 2),
    Kind("kafka", "kill", 2),
)
EXTRAS: Final = (Kind("messages", "replay", 1), Kind("messages", "fivefold", 1))


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault to come. `draw`: of [0, 1), for whatever the fault has to choose."""

    kind: Kind
    seconds: float
    draw: float


def plan(seed: int, faults: int) -> list[Planned]:
    """So many faults of processes and servers, each kind as often as its weight says, and beside
    them those of the messages.
    """
    random = Random(seed)
    kinds = _deal(faults)
    random.shuffle(kinds)
    _spread(kinds)
    for number in range(max(len(EXTRAS), faults // EXTRA_EVERY)):
        kinds.insert(random.randrange(len(kinds) + 1), EXTRAS[number % len(EXTRAS)])
    return [Planned(kind, random.uniform(*kind.seconds), random.random()) for kind in kinds]


def _deal(faults: int) -> list[Kind]:
    """Each kind once, the frequent ones first, and then by their weights."""
    counts = dict.fromkeys(KINDS, 0)
    for _ in range(faults):
        counts[max(KINDS, key=lambda kind: (not counts[kind], kind.weight / (counts[kind] + 1)))] += 1
    return [kind for kind in KINDS for _ in range(counts[kind])]


def _spread(kinds: list[Kind]) -> None:
    """No target twice in a row, where that can be had: a recovery that the next fault interrupts
    measures nothing.
    """
    for here in range(1, len(kinds)):
        if kinds[here].target != kinds[here - 1].target:
            continue
        for later in range(here + 1, len(kinds)):
            if kinds[later].target != kinds[here].target:
                kinds[here], kinds[later] = kinds[later], kinds[here]
                break
