"""`python -m tests.simulation`: the real engine on a real PostgreSQL, in virtual time, with everything else at random, from a seed.

Four workers of two releases, two sweeps, the consumer, the gap pass and a person, each with a clock of its own, act in turns that the seed decides;
they die, stand still, lose messages and answers, and are told everything twice. Then the audit judges. The same seed gives the same run.

exit code: 0 nothing was lost, doubled, reordered or stranded; 1 something was: its seed and the shortest history of a broken order are printed;
2 another run is under way; 130 Ctrl-C
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import django
from rich.console import Console

from stack.launcher import Stack
from stack.rundir import default_folder
from tests.support.servers import BusyError, forget_durability, only_run_in

EXAMPLE = "example: python -m tests.simulation --orders 10000 --seed 7"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=10_000, help="orders of a seed (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="the first seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="so many seeds, one after the other (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the seeds' lines of JSON alone")
    return parser.parse_args()


@contextmanager
def database() -> Iterator[None]:
    """A PostgreSQL of the run's own under `.run/simulation`, or the one that the environment names."""
    folder = default_folder({}) / "simulation"
    stack = Stack(folder, {**os.environ, "BROKER_URL": "redis://unused:1/0", "KAFKA_BOOTSTRAP_SERVERS": "unused:1"})
    with only_run_in(folder):
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
    console = Console(stderr=True, soft_wrap=True, highlight=False, quiet=options.json)
    try:
        with database():
            passed = [run_seed(seed, options, console) for seed in range(options.seed, options.seed + options.seeds)]
    except BusyError as error:
        console.print(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0 if all(passed) else 1


def run_seed(seed: int, options: argparse.Namespace, console: Console) -> bool:
    """Runs it and prints what came of it; whether it passed."""
    from tests.simulation.run import simulate

    console.print(f"simulation: {options.orders} orders, seed {seed}")
    found = simulate(options.orders, seed)
    sys.stdout.write(json.dumps(found.report()) + "\n")
    sys.stdout.flush()
    if found.history:
        console.print(f"VIOLATION, seed {seed}; the shortest history of a broken order:")
        for line in found.history:
            console.print(f"  {line}", markup=False)
    return found.passed


if __name__ == "__main__":
    sys.exit(main())
