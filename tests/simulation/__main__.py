"""`python -m tests.simulation`: the real engine on a real PostgreSQL, in virtual time, with everything else at random, from a seed.

Four workers of two releases, two sweeps, the consumer, the gap pass and a person, each with a clock of its own, act in turns that the seed decides;
they die, stand still, lose messages and answers, and are told everything twice. Then the audit judges. The same seed gives the same run.

exit code: 0 nothing was lost, doubled, reordered or stranded; 1 something was: its seed and the shortest history of a broken order are printed
"""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from rich.console import Console

from stack.launcher import Stack
from stack.rundir import default_folder
from tests.support.servers import forget_durability

EXAMPLE = "example: python -m tests.simulation --orders 10000 --seed 7"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=10_000, help="orders of a seed (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="the first seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="so many seeds, one after the other (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON alone, a line for each seed")
    return parser.parse_args()


@contextmanager
def database() -> Iterator[None]:
    """A PostgreSQL of the run's own under `.run/simulation`, or the one that the environment names."""
    folder = default_folder({}) / "simulation"
    folder.mkdir(parents=True, exist_ok=True)
    stack = Stack(folder, {**os.environ, "BROKER_URL": "redis://unused:1/0", "KAFKA_BOOTSTRAP_SERVERS": "unused:1"})
    try:
        variables = stack.up()
        forget_durability(variables["DATABASE_URL"])
        os.environ.update({"RUN_DIR": str(folder), "LOG_LEVEL": "CRITICAL", "DATABASE_STATEMENT_MS_MAX": "0", **variables})
        os.environ["DJANGO_SETTINGS_MODULE"] = "acceptance_site.settings"
        django.setup()
        yield
    finally:
        stack.down()


def main() -> int:
    options = arguments()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of strings are walked in the same order, too
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console = Console(soft_wrap=True, highlight=False, quiet=options.json)
    passed = True
    with database():
        from tests.simulation.run import simulate

        for seed in range(options.seed, options.seed + options.seeds):
            console.print(f"simulation: {options.orders} orders, seed {seed}")
            started = time.monotonic()
            found = simulate(options.orders, seed)
            passed &= found.passed
            show(console, found.report(), found.history, time.monotonic() - started)
            if options.json:
                sys.stdout.write(json.dumps(found.report() | {"history": found.history}) + "\n")
    return 0 if passed else 1


def show(console: Console, report: dict[str, Any], history: list[str], seconds: float) -> None:
    console.print(f"  {report}", markup=False)
    console.print(f"  {report['orders'] / seconds:.0f} orders/s of real time", markup=False)
    if history:
        console.print(f"  VIOLATION, seed {report['seed']}; the shortest history of a broken order:", markup=False)
        for line in history:
            console.print(f"    {line}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
