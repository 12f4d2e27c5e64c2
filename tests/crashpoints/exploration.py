"""One run: recorded lives, then the deaths, then the deaths of those who mend; or every mutation in
turn.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from random import Random
from typing import Final

from tests.crashpoints.explorer import Case
from tests.crashpoints.mutations import MUTATIONS
from tests.crashpoints.pool import Pool
from tests.crashpoints.report import SINGLES_SHARE, Report, sample

TELL_SECONDS: Final = 30.0


class Exploration:
    """What was asked for, as it is run. The same seed takes the same boundaries: `digest` is a
    number of all that were taken.
    """

    def __init__(self, options: argparse.Namespace, slots: Pool, found: Report) -> None:
        self._options = options
        self._slots = slots
        self._report = found
        self._taken = sha256()
        self.seed = options.seed if options.seed is not None else int(time.time())
        self._random = Random(self.seed)

    @property
    def digest(self) -> str:
        """Two runs with the same digest took the same boundaries."""
        return self._taken.hexdigest()[:12]

    def run(self, groups: Sequence[str]) -> None:
        """Runs everything that was asked for."""
        firsts = self._through([Case(name, mutation=self._options.mutate or "") for name in groups])
        self._say(f"{len(groups)} scenarios, {len(firsts)} boundaries of {len({case.points[-1].kind for case in firsts})} kinds; seed {self.seed}")
        if self._options.list:
            for case in firsts:
                self._say(f"{case.group} {self._report.numbers[case]}: {case.points[-1]}")
            return
        size = self._options.sample
        seconds = self._through(self._chosen(firsts, 0, None if size is None else int(size * SINGLES_SHARE)))
        if seconds:
            self._say(f"{self._report.total} done; {len(seconds)} boundaries of the recoveries after them")
        self._through(self._chosen(seconds, 1, self._options.recoveries if size is None else size - self._report.total))

    def _through(self, cases: Sequence[Case]) -> list[Case]:
        """Runs the cases. Returns those that die one boundary further, in the order of the cases,
        whichever came to its end first.
        """
        following: dict[Case, list[Case]] = {}
        told = time.monotonic()
        for number, result in enumerate(self._slots.run(cases), 1):
            self._report.add(result)
            following[result.case] = self._report.following(result)
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self._say(f"{number} of {len(cases)}")
        for case in cases:
            self._taken.update(f"{case.group}: {', '.join(map(str, case.points))}\n".encode())
        return [further for case in cases for further in following[case]]

    def _chosen(self, cases: Sequence[Case], level: int, size: int | None) -> Sequence[Case]:
        if self._options.point:
            wanted = self._options.point.split(",")
            found = [case for case in cases if self._report.numbers[case].split(",") == wanted[: level + 1]]
            if not found and level < len(wanted):
                raise SystemExit(f"there is no point {self._options.point}: see --list; the recovery dies in some scenarios alone")
            return found
        return cases if size is None else sample(cases, size, self._random)

    def _say(self, text: str) -> None:
        if not self._options.json:
            print(text, flush=True)


def all_caught(slots: Pool) -> bool:
    """Breaks each guard in turn, in its own scenario, until a violation is found. Tells which were
    found, and whether all were.
    """
    caught: dict[str, str] = {}

    def not_caught_yet(cases: Sequence[Case]) -> Iterator[Case]:
        return (case for case in cases if case.mutation not in caught)

    report = Report("", quiet=True)
    following = [Case(mutation.scenario, mutation=name) for name, mutation in MUTATIONS.items()]
    while following:
        cases, following = following, []
        for result in slots.run(not_caught_yet(cases)):
            following += report.following(result)
            if result.violations and result.set_up:
                caught.setdefault(result.case.mutation, result.violations[0].strip().splitlines()[-1])
    for name in MUTATIONS:
        print(f"{name}: {caught.get(name, 'NOT FOUND')}")
    print(f"mutations: {len(caught)}/{len(MUTATIONS)} found")
    return len(caught) == len(MUTATIONS)
