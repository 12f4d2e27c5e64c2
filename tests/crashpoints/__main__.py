"""`python -m tests.crashpoints`: lets processes die at every boundary between two effects, and
looks whether anything was lost, doubled, reordered or stranded.

A first run of each scenario finds its boundaries; then each of them is run once, with the death
there. The servers are the run's own (.run/crashpoints), or those that the environment names.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django

from stack.launcher import Stack
from stack.rundir import default_folder, take
from tests.support.servers import forget_durability, forget_messages

EPILOG = """examples:
  python -m tests.crashpoints                                    every boundary, and a thousand of the recoveries after them
  python -m tests.crashpoints --recoveries all                   those all, too (some 8,000: an hour and more)
  python -m tests.crashpoints --sample 600 --seed 7              so many of them, of every kind at least one
  python -m tests.crashpoints --scenario sweep                   the scenarios whose names begin so
  python -m tests.crashpoints --scenario steps/in_place/reset@2 --point 12,3    one case: dies at 12, the recovery at 3
  python -m tests.crashpoints --scenario steps/in_place --mutate no_lost_attempt    a guard broken on purpose: must find violations
  python -m tests.crashpoints --mutations                        all of them, in turn

The same seed takes the same boundaries, whatever the machine does: the run says by a number which they were.

exit code: 0 all covered and nothing found; 1 not all covered, or a violation; with --mutations, 0 all found"""
RUNS_MAX = 9
TIMEOUT_MS = 120_000  # PostgreSQL's, for a process that a busy machine keeps waiting: real time decides nothing here


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crashpoints", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, metavar="N", help="about so many boundaries; every kind is among them")
    parser.add_argument("--recoveries", type=_number_or_all, default=1_000, metavar="N", help="boundaries of recoveries, or `all` (%(default)s)")
    parser.add_argument("--seed", type=int, help="of the samples; printed when it isn't given")
    parser.add_argument("--scenario", action="append", metavar="NAME", help="only scenarios whose names begin so; may be repeated")
    parser.add_argument("--point", metavar="K[,J]", help="only this boundary of one scenario, and J of the recovery after it")
    parser.add_argument("--mutate", metavar="NAME", help="break a guard on purpose (tests/crashpoints/mutations.py)")
    parser.add_argument("--mutations", action="store_true", help="break every guard in turn, each in its scenario: all must be found")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 2), help="processes (%(default)s)")
    parser.add_argument("--list", action="store_true", help="list the scenarios and, of each, its boundaries")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    return parser.parse_args()


def _number_or_all(text: str) -> int | None:
    """None for all."""
    return None if text == "all" else int(text)


@contextmanager
def servers() -> Iterator[None]:
    """PostgreSQL and a broker, and an environment in which nothing else is reached."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    addresses = {f"{name.upper()}_URL": f"http://{name}" for name in ("counter", "fund", "trading")}
    os.environ.update({**addresses, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "METRICS_DIR": "", "GATEWAY_KIND": "http"})
    os.environ.setdefault("LOG_LEVEL", "CRITICAL")
    os.environ.update(dict.fromkeys(("DATABASE_LOCK_MS_MAX", "DATABASE_IDLE_MS_MAX"), str(TIMEOUT_MS)))
    os.environ["FENCE_MS_MAX"] = "60000"  # the longest that the settings allow
    os.environ["DJANGO_SETTINGS_MODULE"] = "acceptance_site.settings"
    folder, _lock = reserve_folder()
    stack = Stack(folder, os.environ)
    try:
        variables = stack.up()
        if not stack.is_named("DATABASE_URL"):
            forget_durability(variables["DATABASE_URL"])
        if not stack.is_named("BROKER_URL"):
            forget_messages(variables["BROKER_URL"])
        os.environ.update({"RUN_DIR": str(folder), **variables, **addresses})
        os.environ["DATABASE_STATEMENT_MS_MAX"] = "0"  # of the migrations
        django.setup()
        yield
    finally:
        stack.down()


def reserve_folder() -> tuple[Path, Any]:
    """The first folder that no other run holds; the kernel frees it when we end. `make down` knows
    the lock's name.
    """
    for number in range(1, RUNS_MAX + 1):
        folder = default_folder(os.environ) / ("crashpoints" if number == 1 else f"crashpoints-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "pytest.lock").open("a")
        if take(lock.fileno()):
            return folder, lock
        lock.close()
    raise SystemExit(f"{RUNS_MAX} runs are going on in this checkout: wait for one to end")


def main() -> int:
    options = arguments()
    with servers():
        from tests.crashpoints import exploration, explorer, mutations, pool, report

        groups = explorer.named(options.scenario or [])
        if not groups:
            raise SystemExit(f"no scenario is named {options.scenario}: see --list")
        if options.mutate and options.mutate not in mutations.MUTATIONS:
            raise SystemExit(f"no mutation is named {options.mutate!r}: there are {', '.join(mutations.MUTATIONS)}")
        repeats = f"{os.path.relpath(sys.executable)} -m tests.crashpoints{f' --mutate {options.mutate}' if options.mutate else ''}"
        found = report.Report(repeats, quiet=options.json)
        with pool.pool(options.jobs) as slots:
            if options.mutations:
                return 0 if exploration.all_caught(slots) else 1
            started = time.monotonic()
            explored = exploration.Exploration(options, slots, found)
            explored.run([group.name for group in groups])
            seconds = time.monotonic() - started
    if options.list:
        return 1 if found.violated else 0
    if options.json:
        print(found.as_json(seconds=round(seconds, 1), seed=explored.seed, boundaries=explored.digest, groups=len(groups)))
    else:
        print(f"{seconds:.0f} s, the slowest case {found.slowest_seconds:.1f} s; seed {explored.seed}, boundaries {explored.digest}")
        print(found.last_line)
    return 0 if found.passed else 1


if __name__ == "__main__":
    sys.exit(main())
