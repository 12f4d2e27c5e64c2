"""Feeds the decoder with mutated real messages of every format: rows or UnreadableMessage must come
out, in little time and memory.

Whatever else comes out is shown with its number and its bytes; the same seed and number give the
same input again.
"""

import argparse
import base64
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from rich.console import Console
from rich.progress import Progress

from orders.decoding.decode import RowChange, UnreadableMessage, decode
from orders.intake.mapping import Refused, from_binlog
from tests.fuzz import corpus
from tests.fuzz.mutations import mutated
from tests.orders.messages import RULES

EXAMPLE = "example: python -m tests.fuzz.decode --count 1000000 --seed 1"
SECONDS_MAX = 2.0  # of CPU for one input of some kilobytes, which takes a thousandth of that
MEMORY_BYTES_MAX = 1 << 30  # for the whole run; beyond it is a MemoryError
FAILURES_MAX = 10
STEP = 1_000


@dataclass
class Outcome:
    """The result of a run."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


def inputs(seed: int, numbers: range) -> Iterator[tuple[int, str, bytes]]:
    """Number, format and bytes of each input."""
    messages = corpus.messages()
    formats = sorted(messages)
    for number in numbers:
        random = Random(seed << 32 | number)
        name = random.choice(formats)
        other = random.choice(messages[random.choice(formats)])
        yield number, name, mutated(random, random.choice(messages[name]), other)


def feed(outcome: Outcome, number: int, name: str, raw: bytes) -> None:
    """Decodes one input and counts the result."""
    started = time.process_time()
    try:
        outcome.counts[f"{name}: {judged(raw)}"] += 1
    except Exception as error:  # finding these is what it's for
        outcome.failures.append(f"input {number} ({name}): {error!r}: {base64.b64encode(raw[:3_000]).decode()}")
    seconds = time.process_time() - started
    outcome.slowest_seconds = max(outcome.slowest_seconds, seconds)
    if seconds > SECONDS_MAX:
        outcome.failures.append(f"input {number} ({name}): took {seconds:.1f} s")


def judged(raw: bytes) -> str:
    """The result of decoding. Raises any error that it should not have raised."""
    try:
        changes = decode(raw)
    except UnreadableMessage:
        return "unreadable"
    for change in changes:
        check(change)
    return "rows" if changes else "no rows"


def check(change: RowChange) -> None:
    """Its values are of the promised types, and mapping them ends in an order or with a reason."""
    for row in filter(None, (change.before, change.after)):
        if not all(isinstance(value, str | bytes | None) for value in row.values()):
            raise TypeError("a value that is neither text nor bytes nor null")
        with suppress(Refused):
            from_binlog(row, RULES)


def run(seed: int, count: int, first: int, progress: Progress) -> Outcome:
    outcome = Outcome()
    task = progress.add_task("inputs", total=count)
    for number, name, raw in inputs(seed, range(first, first + count)):
        feed(outcome, number, name, raw)
        if len(outcome.failures) >= FAILURES_MAX:
            break
        if (number - first) % STEP == STEP - 1:
            progress.advance(task, STEP)
    return outcome


def report(outcome: Outcome, seed: int, seconds: float) -> str:
    count = sum(outcome.counts.values()) + len(outcome.failures)
    lines = [f"{times:>9,}  {name}" for name, times in sorted(outcome.counts.items())]
    lines.append(f"{count:>9,}  inputs of seed {seed} in {seconds:.0f} s; slowest {1000 * outcome.slowest_seconds:.0f} ms")
    return "\n".join([*lines, *(f"FAILED: {failure}" for failure in outcome.failures)])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.decode", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs (1,000,000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other inputs (1)")
    parser.add_argument("--first", type=int, default=0, help="the first input's number, to see one again (0)")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    started = time.monotonic()
    console = Console(stderr=True)
    with Progress(console=console) as progress:
        outcome = run(options.seed, options.count, options.first, progress)
    Console(soft_wrap=True, highlight=False).print(report(outcome, options.seed, time.monotonic() - started), markup=False)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
