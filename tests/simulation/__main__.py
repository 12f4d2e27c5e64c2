"""`python -m tests.simulation`: the real engine on a real PostgreSQL, in virtual time, with everything else at random, from a seed.

Four workers of two releases, two sweeps, the consumer, the gap pass and a person, each with a clock of its own, act in turns that the seed decides;
they die, stand still, lose messages and answers, and are told everything twice. Then the audit judges. The same seed gives the same run. Each
seed is a process with a database of its own, `--jobs` of them at a time; it prints one line of JSON.

exit code: 0 nothing was lost, doubled, reordered or stranded; 1 something was: its seed and the shortest history of a broken order are printed;
2 another run is under way; 130 Ctrl-C
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from queue import SimpleQueue
from typing import Final

import psycopg2
from rich.console import Console

from stack.launcher import Stack
from stack.rundir import CHECKOUT, default_folder
from tests.support.servers import BusyError, forget_durability, only_run_in

EXAMPLE: Final = "example: python -m tests.simulation --orders 10000 --seed 7 --seeds 10"
NOT_STARTED: Final = {"BROKER_URL": "redis://unused:1/0", "KAFKA_BOOTSTRAP_SERVERS": "unused:1"}  # both are in memory


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=10_000, help="orders of a seed (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="the first seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time (%(default)s, the processors)")
    return parser.parse_args()


@contextmanager
def databases(count: int) -> Iterator[list[str]]:
    """URLs of so many databases, on a PostgreSQL of the run's own under `.run/simulation`. Raises BusyError."""
    folder = default_folder({}) / "simulation"
    with only_run_in(folder):
        stack = Stack(folder, {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | NOT_STARTED)
        try:
            url = stack.up()["DATABASE_URL"]
            forget_durability(url)
            yield [_made(url, f"simulation_{number}") for number in range(count)]
        finally:
            stack.down()


def _made(url: str, name: str) -> str:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {name}")
    return f"{url.rpartition('/')[0]}/{name}"


class Seeds:
    """Runs seeds, each in a process of its own."""

    def __init__(self, orders: int, urls: list[str]) -> None:
        self._orders = orders
        self._free: SimpleQueue[str] = SimpleQueue()
        self._running: set[subprocess.Popen[bytes]] = set()
        for url in urls:
            self._free.put(url)

    def run(self, seed: int) -> bool:
        """One seed; whether it passed."""
        url = self._free.get()
        environment = {**os.environ, **NOT_STARTED, "DATABASE_URL": url, "DATABASE_STATEMENT_MS_MAX": "0", "LOG_LEVEL": "CRITICAL"}
        command = [sys.executable, "-m", "tests.simulation.run", str(self._orders), str(seed)]
        # sets of texts are walked in the same order, too
        process = subprocess.Popen(command, cwd=CHECKOUT, env={**environment, "PYTHONHASHSEED": "0"})
        self._running.add(process)
        try:
            return process.wait() == 0
        finally:
            self._running.discard(process)
            self._free.put(url)

    def kill(self) -> None:
        """Ends what still runs."""
        for process in list(self._running):
            process.kill()


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    seeds = range(options.seed, options.seed + options.seeds)
    jobs = min(options.jobs, options.seeds)
    console.print(f"simulation: {options.orders} orders, seed {options.seed}" + (f" to {seeds[-1]}, {jobs} at a time" if jobs > 1 else ""))
    try:
        with databases(jobs) as urls:
            started = time.monotonic()
            passed = run_all(Seeds(options.orders, urls), seeds, jobs)
            rate = options.orders * options.seeds / (time.monotonic() - started)
    except BusyError as error:
        console.print(str(error))
        return 2
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130
    failed = [seed for seed, good in zip(seeds, passed, strict=True) if not good]
    console.print(f"{options.seeds} seeds, {f'FAILED: {failed}' if failed else 'no violation'}, {rate:.0f} orders/s of real time")
    return 1 if failed else 0


def run_all(runs: Seeds, seeds: range, jobs: int) -> list[bool]:
    """All of them, some at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(runs.run, seeds))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            runs.kill()
            raise


if __name__ == "__main__":
    sys.exit(main())
