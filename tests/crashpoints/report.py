"""What a run found: which boundaries are taken, what is printed, and the last line."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from tests.crashpoints.explorer import Case, Result
from tests.crashpoints.points import apart

SHOWN_MAX: Final = 10  # with their history; of others the first violation
SINGLES_SHARE: Final = 0.75  # of a sample; the rest are deaths of the recovery, too


def sample(cases: Sequence[Case], size: int, random: Random) -> list[Case]:
    """So many of the cases, at random, but of every kind of boundary and of every group at least
    one.
    """
    places = {case: place for place, case in enumerate(cases)}
    shuffled = random.sample(cases, len(cases))
    kinds = {case.points[-1].kind: case for case in reversed(shuffled)}
    groups = {case.group: case for case in reversed(shuffled)}
    chosen = list(dict.fromkeys([*kinds.values(), *groups.values(), *shuffled]))
    return sorted(chosen[: max(size, len(kinds))], key=places.__getitem__)  # in their order, so that cases of one scenario follow one another


@dataclass(slots=True)
class Report:
    """The results so far."""

    repeats: str  # the beginning of the command that repeats a case
    quiet: bool = False  # violations are told at the end alone
    numbers: dict[Case, str] = field(default_factory=dict)  # what --point calls a case
    total: int = 0
    covered: int = 0
    slowest_seconds: float = 0.0
    violated: list[Result] = field(default_factory=list)
    not_set_up: int = 0  # cases whose set-up failed: they are no violations, and the run doesn't pass

    def add(self, result: Result) -> None:
        """Counts it."""
        if result.case.points:
            self.total += 1
            self.covered += result.covered
        self.not_set_up += not result.set_up
        self.slowest_seconds = max(self.slowest_seconds, result.seconds)
        if result.violations and result.covered:
            self.violated.append(result)
        if result.violations and not self.quiet:
            lines = self.lines(result)
            print("\n".join(lines if len(self.violated) <= SHOWN_MAX else [*lines[:2], lines[-1]]), flush=True)

    def following(self, result: Result) -> list[Case]:
        """The cases that die one boundary further."""
        alone = set(apart(result.next_points))
        cases = [Case(result.case.group, (*result.case.points, point), point in alone, result.case.mutation) for point in result.next_points]
        before = self.numbers.get(result.case, "")
        self.numbers |= {case: f"{before}{',' if before else ''}{number}" for number, case in enumerate(cases, 1)}
        return cases

    def lines(self, result: Result) -> list[str]:
        """A violation as people read it."""
        number = self.numbers.get(result.case)
        place = ", then ".join(str(point) for point in result.case.points) or "nobody dies"
        command = f"{self.repeats} --scenario {result.case.group}{f' --point {number}' if number else ''}"
        return [f"\n{result.case.group}: {place}", *(f"  - {problem}" for problem in result.violations), *result.account, f"repeat: {command}"]

    @property
    def passed(self) -> bool:
        """Whether every boundary was covered and nothing was found."""
        return 0 < self.total == self.covered and not self.violated and not self.not_set_up

    @property
    def last_line(self) -> str:
        failed = f", {self.not_set_up} set-ups failed" if self.not_set_up else ""
        return f"crash points: {self.covered}/{self.total} covered, {len(self.violated)} violations{failed}"

    def as_json(self, **more: Any) -> str:
        """The figures and every violation."""
        found = [
            {
                "group": result.case.group,
                "points": [str(point) for point in result.case.points],
                "violations": result.violations,
                "account": result.account,
            }
            for result in self.violated
        ]
        return json.dumps(
            {
                "covered": self.covered,
                "total": self.total,
                "violations": len(self.violated),
                "set_ups_failed": self.not_set_up,
                "found": found,
                **more,
            },
            indent=2,
        )
