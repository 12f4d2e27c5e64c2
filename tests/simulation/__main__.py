"""`python -m tests.simulation`: the real engine on a real PostgreSQL, in virtual time, with
everything else at random, from a seed.

Four workers of two releases, two sweeps, the consumer, the gap pass and a person, each with a clock
of its own, act in turns that the seed decides; they die, stand still, lose messages and answers,
and are told everything twice; counterparties are away, orders are held, and operators resolve what
is parked. Then the audit judges. The same seed gives the same run. Each seed is a process with a
database of its own, `--processes` of them at a time; it prints one line of JSON. The last line is
JSON, too: seeds, orders, violations, and orders/s of the whole and of each process.

exit code: 0 nothing was lost, doubled, reordered or stranded; 1 something was, or a seed broke off:
its seed, how to repeat it and the shortest history of a broken order are printed; 2 another run is
in progress; 130 Ctrl-C
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import IO, Any, Final

import psycopg2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stack.launcher import Stack
from stack.rundir import CHECKOUT, default_folder
from tests.support.emptying import STARTED_SQL
from tests.support.servers import BusyError, forget_durability, only_run_in

EXAMPLE: Final = "example: python -m tests.simulation --orders 10000 --seed 7 --seeds 10"
VIOLATIONS: Final = ("lost", "doubled", "out_of_order", "stranded", "rule_12")
NOT_STARTED: Final = {"BROKER_URL": "redis://unused:1/0", "KAFKA_BOOTSTRAP_SERVERS": "unused:1"}  # both are in memory


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=10_000, help="orders of a seed (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="the first seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds (%(default)s)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="seeds at a time (%(default)s, the processors)")
    return parser.parse_args()


@contextmanager
def databases(count: int) -> Iterator[list[str]]:
    """URLs of so many databases, on a PostgreSQL of the run's own under `.run/simulation`. Raises
    BusyError.
    """
    folder = default_folder({}) / "simulation"
    with only_run_in(folder):
        stack = Stack(folder, {name: value for name, value in os.environ.items() if name != "DATABASE_URL"} | NOT_STARTED)
        try:
            url = stack.up()["DATABASE_URL"]
            forget_durability(url)
            yield _made(url, count)
        finally:
            stack.down()


def _made(url: str, count: int) -> list[str]:
    """The schema once, and copies of it. Their tables outlive no crash of the server, which never
    happens here: that saves the write-ahead log.
    """
    names = [f"simulation_{number}" for number in range(count)]
    urls = [f"{url.rpartition('/')[0]}/{name}" for name in names]
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name in names:
                cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {names[0]}")
            subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=CHECKOUT, env=_environment(urls[0]), check=True)
            _start(urls[0])
            _unlog_tables(urls[0])
            for name in names[1:]:
                cursor.execute(f"CREATE DATABASE {name} TEMPLATE {names[0]}")
    return urls


def _start(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(STARTED_SQL)


def _unlog_tables(url: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY oid DESC")
            left = [name for (name,) in cursor.fetchall()]
            while left:  # one that others refer to comes after them
                table = left.pop(0)
                try:
                    cursor.execute(f"ALTER TABLE {table} SET UNLOGGED")
                except psycopg2.errors.InvalidTableDefinition:
                    left.append(table)


def _environment(url: str) -> dict[str, str]:
    """Of a process that uses this database. Sets of texts are walked in the same order, too."""
    slot = url.rpartition("_")[2]
    own = {"DATABASE_URL": url, "DATABASE_STATEMENT_MS_MAX": "0", "LOG_LEVEL": "CRITICAL", "PYTHONHASHSEED": "0", "SIMULATION_SLOT": slot}
    return {**os.environ, **NOT_STARTED, **own}


@dataclass(frozen=True, slots=True)
class Ran:
    """What a seed came to; without figures it broke off."""

    seed: int
    figures: dict[str, Any]

    @property
    def passed(self) -> bool:
        """No violation."""
        return bool(self.figures.get("passed"))


class Seeds:
    """Runs seeds, each in a process of its own."""

    def __init__(self, orders: int, urls: list[str], console: Console, progressed: Callable[[int, int], None]) -> None:
        self._orders = orders
        self._console = console
        self._progressed = progressed
        self._free: SimpleQueue[str] = SimpleQueue()
        self._running: set[subprocess.Popen[str]] = set()
        for url in urls:
            self._free.put(url)

    def run(self, seed: int) -> Ran:
        """One seed. Its line of figures is printed as soon as it is there, and what else it has to
        say after its end.
        """
        url = self._free.get()
        command = [sys.executable, "-m", "tests.simulation.run", str(self._orders), str(seed)]
        with tempfile.TemporaryFile("w+") as said:
            process = subprocess.Popen(command, cwd=CHECKOUT, env=_environment(url), stdout=subprocess.PIPE, stderr=said, text=True)
            self._running.add(process)
            try:
                ran = Ran(seed, self._figures(seed, process.stdout))
                process.wait()
            finally:
                self._running.discard(process)
                self._free.put(url)
            said.seek(0)
            self._tell(ran, said.read())
        return ran

    def _figures(self, seed: int, lines: IO[str] | None) -> dict[str, Any]:
        """The last line that it prints; those before say how far it has come."""
        figures: dict[str, Any] = {}
        for line in lines or ():
            with suppress(ValueError):
                figures = json.loads(line)
                self._progressed(seed, figures.get("placed", self._orders))
        return figures if "passed" in figures else {}

    def _tell(self, ran: Ran, said: str) -> None:
        if ran.figures:
            sys.stdout.write(json.dumps(ran.figures) + "\n")
            sys.stdout.flush()
        if said:
            self._console.print(said.rstrip(), markup=False)
        if not ran.passed:
            self._console.print(
                f"seed {ran.seed} {'FAILED' if ran.figures else 'broke off'}; again: make simulate ORDERS={self._orders} SEED={ran.seed}"
            )

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
    processes = min(options.processes, options.seeds)
    also = f" to {seeds[-1]}, {processes} at a time" if options.seeds > 1 else ""
    console.print(f"simulation: {options.orders} orders, seed {options.seed}{also}")
    try:
        with databases(processes) as urls:
            started = time.monotonic()
            with _bar(console) as bar:
                tasks = {seed: bar.add_task(f"seed {seed}", total=options.orders, start=False) for seed in seeds}
                runs = Seeds(options.orders, urls, bar.console, lambda seed, placed: _advance(bar, tasks[seed], placed))
                ran = run_all(runs, seeds, processes)
            seconds = time.monotonic() - started
    except BusyError as error:
        console.print(str(error))
        return 2
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130
    return summed_up(console, ran, options.orders, processes, seconds)


def _bar(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _advance(bar: Progress, task: Any, placed: int) -> None:
    bar.start_task(task)
    bar.update(task, completed=placed)


def summed_up(console: Console, ran: list[Ran], orders: int, processes: int, seconds: float) -> int:
    """Prints the summary, its JSON last. Returns the exit code."""
    failed = [one.seed for one in ran if not one.passed]
    rate = orders * len(ran) / seconds
    console.print(f"{len(ran)} seeds, {f'FAILED: {failed}' if failed else 'no violation'}, {rate:.0f} orders/s of real time")
    figures = {
        "seeds": len(ran),
        "orders": orders * len(ran),
        "violations": sum(one.figures.get(kind, 0) for one in ran for kind in VIOLATIONS),
        "failed_seeds": failed,
        "seconds": round(seconds, 1),
        "orders_per_second": round(rate, 1),
        "processes": processes,
        "orders_per_second_of_each": {one.seed: one.figures.get("orders_per_second", 0) for one in ran},
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 1 if failed else 0


def run_all(runs: Seeds, seeds: range, processes: int) -> list[Ran]:
    """All of them, some at a time."""
    with ThreadPoolExecutor(processes) as pool:
        try:
            return list(pool.map(runs.run, seeds))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            runs.kill()
            raise


if __name__ == "__main__":
    sys.exit(main())
