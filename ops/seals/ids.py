"""Sets of row ids, as sorted runs: what a seal covers, and what may still come."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter


@dataclass(frozen=True, slots=True)
class Ids:
    """Runs (first, behind the last), in order, none touching the next."""

    runs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, ids: Iterable[int]) -> "Ids":
        """Of single ids, in any order."""
        return cls.of_runs((pk, pk + 1) for pk in ids)

    @classmethod
    def of_runs(cls, runs: Iterable[tuple[int, int]]) -> "Ids":
        """Of runs in any order, also overlapping or empty ones."""
        found: list[tuple[int, int]] = []
        for first, behind in sorted(run for run in runs if run[0] < run[1]):
            if found and first <= found[-1][1]:
                found[-1] = (found[-1][0], max(behind, found[-1][1]))
            else:
                found.append((first, behind))
        return cls(tuple(found))

    @classmethod
    def read(cls, text: str) -> "Ids":
        """Of what `text` gave. Raises ValueError."""
        runs, at = [], 0
        for word in text.split():
            gap, length = map(int, word.split("+"))
            if gap < 0 or length < 1:
                raise ValueError(f"no runs of ids: {word!r}")
            runs.append((at + gap, at + gap + length))
            at = runs[-1][1]
        return cls.of_runs(runs)

    @property
    def text(self) -> str:
        """`gap+length`, run by run: short also where every second id is missing."""
        words, at = [], 0
        for first, behind in self.runs:
            words.append(f"{first - at}+{behind - first}")
            at = behind
        return " ".join(words)

    @property
    def multirange(self) -> str:
        """As PostgreSQL writes an int8multirange."""
        return "{" + ",".join(f"[{first},{behind})" for first, behind in self.runs) + "}"

    @property
    def bounds(self) -> tuple[int, int]:
        """The first and the last id; (0, -1) of none."""
        return (self.runs[0][0], self.runs[-1][1] - 1) if self.runs else (0, -1)

    def __iter__(self) -> Iterator[int]:
        for first, behind in self.runs:
            yield from range(first, behind)

    def __len__(self) -> int:
        return sum(behind - first for first, behind in self.runs)

    def __bool__(self) -> bool:
        return bool(self.runs)

    def __contains__(self, pk: int) -> bool:
        at = bisect_right(self.runs, pk, key=itemgetter(0)) - 1
        return at >= 0 and pk < self.runs[at][1]

    def __or__(self, other: "Ids") -> "Ids":
        return Ids.of_runs([*self.runs, *other.runs])

    def __sub__(self, other: "Ids") -> "Ids":
        found, others, at = [], other.runs, 0
        for first, behind in self.runs:
            while at < len(others) and others[at][1] <= first:
                at += 1
            begin, index = first, at
            while index < len(others) and others[index][0] < behind:
                found.append((begin, others[index][0]))
                begin = max(begin, others[index][1])
                index += 1
            found.append((begin, behind))
        return Ids.of_runs(found)
