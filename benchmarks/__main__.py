"""`python -m benchmarks overhead|burst|decode|ingest|gaps|pages|handover|rolling [--json]`: our
figures beside the floor's.

Floor and ours run in turn; the ratios count. The floor of `pages` is the login page. `decode` needs
no server; `handover` and `rolling` have no floor, and start servers of their own (ZooKeeper only
where its jars are); `rolling` fails if the audit does. The others run on servers of the run's own:
the embedded stack's, under .run/bench, or those that the environment names. `--baseline` runs the
commit that benchmarks/BASELINE names in turn with this one, and prints both.

Exit code: 0; 1 when something failed, with one line that says what; 2 for arguments that don't fit;
that of the audit, for `rolling`.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import django

from benchmarks.errors import BenchmarkError, reason
from benchmarks.machine import slowness
from stack.errors import StackError
from stack.launcher import Stack
from stack.rundir import default_folder

if TYPE_CHECKING:
    from benchmarks.ours import Workers

EXAMPLE = "example: python -m benchmarks overhead --orders 1500 --rounds 3"
Figures = dict[str, Any]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("figure", choices=[*ALONE, *ON_SERVERS])
    parser.add_argument("--orders", type=int, help="orders a round (overhead 1000, burst 2000, ingest 20000), known ones (gaps 1000000, pages 10000)")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--rate", type=float, help="orders/s (overhead 100; rolling: half of what the machine holds, at most 40)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the flow is watched before (rolling)")
    parser.add_argument("--replace", metavar="NAMES", help="only these processes, separated by commas (rolling: all)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of floor and ours in turn; the median counts (decode: ten times as many, the best)"
    )
    parser.add_argument("--hand-overs", type=int, default=50, help="how often the leader is ended, each way (handover)")
    parser.add_argument("--threads", type=int, default=16, help="threads of a worker")
    parser.add_argument("--processes", type=int, default=1, help="workers")
    parser.add_argument("--baseline", action="store_true", help="in turn with the commit that benchmarks/BASELINE names")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    try:
        if options.baseline:
            from benchmarks import baseline

            result, lines = baseline.compared(options, sys.argv[1:])
        else:
            slowness()  # measured before anything else takes the machine
            result, lines = ALONE.get(options.figure, on_servers)(options)
        text = json.dumps(result, indent=2, allow_nan=False) if options.json else "\n".join(lines)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        print(f"{options.figure} failed: {reason(error)}{kept_traceback(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, StackError) else 1
    print(text)
    return int(result.get("audit", {}).get("exit_code", 0))


def kept_traceback(error: Exception) -> str:
    """Writes down where an error came from that isn't a benchmark's own; says where."""
    if isinstance(error, BenchmarkError | StackError):
        return ""
    file = default_folder(os.environ) / "bench" / "failure.log"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(traceback.format_exception(error)))
    return f" (traceback: {file})"


def decoded(options: argparse.Namespace) -> tuple[Figures, list[str]]:
    """Rows a second of the decoder."""
    from benchmarks import decode

    result = decode.figures(10 * options.rounds)
    return result, decode.lines(result)


def handed_over(options: argparse.Namespace) -> tuple[Figures, list[str]]:
    """Seconds without a leader."""
    from benchmarks import handover
    from stack.zookeeper import missing

    reason = missing()
    if reason:
        print(f"without ZooKeeper: {reason}", file=sys.stderr)
    kinds = [kind for kind in handover.KINDS if kind == "lease" or not reason]
    result = handover.figures(default_folder(os.environ) / "bench-handover", options.hand_overs, kinds)
    return result, handover.lines(result)


def rolled(options: argparse.Namespace) -> tuple[Figures, list[str]]:
    """What it costs to replace every process."""
    from benchmarks import rolling

    names = options.replace.split(",") if options.replace else rolling.ORDER
    result = rolling.figures(default_folder(os.environ) / "rolling", options.rate, options.seconds, names)
    return result, rolling.lines(result)


def on_servers(options: argparse.Namespace) -> tuple[Figures, list[str]]:
    """A figure that takes servers, which come up for it and go down."""
    folder = default_folder(os.environ) / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    stack = Stack(folder, os.environ)
    try:
        os.environ.update({"RUN_DIR": str(folder), **stack.up(), "INTAKE_MAC": "off"})  # rows of our own
        os.environ["DJANGO_SETTINGS_MODULE"] = "acceptance_site.settings"
        django.setup()
        migrate(anew=not stack.is_named("DATABASE_URL"))
        return ON_SERVERS[options.figure](options, stack)
    finally:
        stack.down()


def migrate(*, anew: bool) -> None:
    """The service's tables; in a database of ours from nothing, since functions that were changed
    since the last run are of the same migration.
    """
    from django.core.management import call_command
    from django.db import connection

    from orders.intake import first_start

    if anew:
        with connection.cursor() as cursor:
            cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    call_command("migrate", verbosity=0)
    if first_start.since_ms() is None:
        first_start.start(0, actor="benchmarks")


def clearing_figure(options: argparse.Namespace, stack: Stack) -> tuple[Figures, list[str]]:
    """Overhead or burst."""
    from benchmarks import ours

    with ours.worker(threads=options.threads, processes=options.processes, log=stack.run_dir.folder / "worker.log") as workers:
        result = (overhead if options.figure == "overhead" else burst)(options, workers)
    return result, lines_of(result)


def overhead(options: argparse.Namespace, workers: "Workers") -> Figures:
    """Ms an order beyond its four calls."""
    from benchmarks import floor
    from benchmarks.gateway import CALL_MS
    from benchmarks.orders import overheads_ms, prepare
    from benchmarks.shares import percentile

    rate, count = options.rate or 100.0, options.orders or 1000

    def measured(act: Callable[[list[Any]], None]) -> dict[str, float]:
        act(prepare(count, options.users))
        values = overheads_ms(CALL_MS, count)
        return {"p50_ms": percentile(values, 0.5), "p99_ms": percentile(values, 0.99)}

    rounds = [
        {"floor": measured(lambda orders: asyncio.run(floor.paced(orders, rate))), "ours": measured(lambda orders: workers.paced(orders, rate))}
        for _ in range(options.rounds)
    ]
    return {"figure": "overhead", "rate": rate, **summary(rounds, {"p50_over_floor": "p50_ms", "p99_over_floor": "p99_ms"})}


def burst(options: argparse.Namespace, workers: "Workers") -> Figures:
    """Orders a second of a burst."""
    from benchmarks import floor
    from benchmarks.orders import burst_seconds, prepare

    count = options.orders or 2000

    def measured(act: Callable[[list[Any]], None]) -> dict[str, float]:
        act(prepare(count, options.users))
        return {"orders_per_second": count / burst_seconds(count)}

    rounds = [
        {"floor": measured(lambda orders: asyncio.run(floor.burst(orders, 200))), "ours": measured(lambda orders: workers.burst(orders, 200))}
        for _ in range(options.rounds)
    ]
    return {"figure": "burst", "orders": count, **summary(rounds, {"rate_over_floor": "orders_per_second"})}


def summary(rounds: list[dict[str, dict[str, float]]], ratios: dict[str, str]) -> Figures:
    """The medians over the rounds, and each ratio from them."""
    medians = {side: {name: statistics.median(r[side][name] for r in rounds) for name in rounds[0][side]} for side in ("floor", "ours")}
    return {**medians, "ratios": {ratio: medians["ours"][name] / medians["floor"][name] for ratio, name in ratios.items()}, "rounds": rounds}


def lines_of(result: Figures) -> list[str]:
    sides = [f"{side:>6}: " + "  ".join(f"{name} {value:.1f}" for name, value in result[side].items()) for side in ("floor", "ours")]
    return [*sides, "ratios: " + "  ".join(f"{name} {value:.2f}" for name, value in result["ratios"].items())]


def ingest(options: argparse.Namespace, stack: Stack) -> tuple[Figures, list[str]]:
    """Orders a second of the consumer."""
    from benchmarks import ingest as figure
    from benchmarks.cores import pin_servers

    core, arrangement = pin_servers(server_pids(stack))
    result = figure.figures(options.orders or 20_000, options.rounds, core, log_of(stack, "consumer")) | {"cores": arrangement}
    return result, figure.lines(result)


def gaps(options: argparse.Namespace, stack: Stack) -> tuple[Figures, list[str]]:
    """Time of a gap pass."""
    from benchmarks import gaps as figure
    from benchmarks.cores import pin_servers

    core, arrangement = pin_servers(server_pids(stack))
    result = figure.figures(options.orders or 1_000_000, options.rounds, core, log_of(stack, "counter")) | {"cores": arrangement}
    return result, figure.lines(result)


def pages(options: argparse.Namespace, _: Stack) -> tuple[Figures, list[str]]:
    """Time of the admin's pages."""
    from benchmarks import pages as figure

    result = figure.figures(options.orders or 10_000, options.rounds)
    return result, figure.lines(result)


def server_pids(stack: Stack) -> list[int]:
    """Of those servers that are ours."""
    return [status.pid for status in stack.status() if status.pid]


def log_of(stack: Stack, process: str) -> Path:
    return stack.run_dir.folder / f"{process}.log"


ALONE: dict[str, Callable[[argparse.Namespace], tuple[Figures, list[str]]]] = {
    "decode": decoded,
    "handover": handed_over,
    "rolling": rolled,
}
ON_SERVERS: dict[str, Callable[[argparse.Namespace, Stack], tuple[Figures, list[str]]]] = {
    "overhead": clearing_figure,
    "burst": clearing_figure,
    "ingest": ingest,
    "gaps": gaps,
    "pages": pages,
}


if __name__ == "__main__":
    sys.exit(main())
