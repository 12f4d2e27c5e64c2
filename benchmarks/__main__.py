"""`python -m benchmarks overhead|burst|decode|handover|rolling [--json]`: our figures beside the floor's, interleaved in one run; `ratios` count.

`decode` needs no server; `handover` and `rolling` have no floor, and start servers of their own (ZooKeeper only where its jars are). The others run
on a database and a broker of the run's own: the embedded stack's, under .run/bench, or those that the environment names.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django

from stack.launcher import Stack
from stack.rundir import default_folder

EXAMPLE = "example: python -m benchmarks overhead --orders 1500 --rounds 3"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("figure", choices=["overhead", "burst", "decode", "handover", "rolling"])
    parser.add_argument("--orders", type=int, help="orders a round (overhead 1000, burst 2000)")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--rate", type=float, help="orders/s (overhead 100, rolling 40)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the flow is watched before (rolling)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of floor and ours in turn; the median counts (decode: ten times as many, the best)"
    )
    parser.add_argument("--hand-overs", type=int, default=50, help="how often the leader is ended, each way (handover)")
    parser.add_argument("--threads", type=int, default=16, help="threads of a worker")
    parser.add_argument("--processes", type=int, default=1, help="workers")
    parser.add_argument("--json", action="store_true", help="print JSON alone")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.figure == "decode":
        return decode_rates(options.rounds, as_json=options.json)
    if options.figure == "handover":
        return hand_over_times(options.hand_overs, as_json=options.json)
    if options.figure == "rolling":
        return rolling_upgrade(options.rate or 40.0, options.seconds, as_json=options.json)
    folder = default_folder(os.environ) / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    stack = Stack(folder, os.environ)
    try:
        os.environ.update({"RUN_DIR": str(folder), **stack.up()})
        os.environ["DJANGO_SETTINGS_MODULE"] = "acceptance_site.settings"
        django.setup()
        report(run(options, folder / "worker.log"), as_json=options.json)
    finally:
        stack.down()
    return 0


def decode_rates(rounds: int, *, as_json: bool) -> int:
    """Rows a second of the decoder."""
    from benchmarks import decode

    found = decode.figures(10 * rounds)
    print(json.dumps(found, indent=2) if as_json else "\n".join(decode.lines(found)))
    return 0


def hand_over_times(rounds: int, *, as_json: bool) -> int:
    """Seconds without a leader."""
    from benchmarks import handover
    from stack.zookeeper import missing

    reason = missing()
    if reason:
        print(f"without ZooKeeper: {reason}", file=sys.stderr)
    found = handover.figures(
        default_folder(os.environ) / "bench-handover", rounds, [kind for kind in handover.KINDS if kind == "lease" or not reason]
    )
    print(json.dumps(found, indent=2) if as_json else "\n".join(handover.lines(found)))
    return 0


def rolling_upgrade(rate: float, seconds: float, *, as_json: bool) -> int:
    """What it costs to replace every process; the audit's exit code."""
    from benchmarks import rolling

    found = rolling.figures(default_folder(os.environ) / "rolling", rate, seconds)
    print(json.dumps(found, indent=2) if as_json else "\n".join(rolling.lines(found)))
    return int(found["audit"]["exit_code"])


def run(options: argparse.Namespace, log: Path) -> dict[str, Any]:
    """The figures of one run."""
    from django.core.management import call_command

    from benchmarks import ours

    call_command("migrate", verbosity=0)
    with ours.worker(threads=options.threads, processes=options.processes, log=log):
        return (overhead if options.figure == "overhead" else burst)(options)


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Ms an order beyond its four calls."""
    from benchmarks import floor, ours
    from benchmarks.gateway import CALL_MS
    from benchmarks.orders import overheads_ms, prepare
    from benchmarks.shares import percentile

    def measured(act: Callable[[list[Any]], None]) -> dict[str, float]:
        act(prepare(options.orders or 1000, options.users))
        values = overheads_ms(CALL_MS)
        return {"p50_ms": percentile(values, 0.5), "p99_ms": percentile(values, 0.99)}

    rounds = [
        {
            "floor": measured(lambda orders: asyncio.run(floor.paced(orders, options.rate or 100.0))),
            "ours": measured(lambda o: ours.paced(o, options.rate or 100.0)),
        }
        for _ in range(options.rounds)
    ]
    return {"figure": "overhead", "rate": options.rate or 100.0, **summary(rounds, {"p50_over_floor": "p50_ms", "p99_over_floor": "p99_ms"})}


def burst(options: argparse.Namespace) -> dict[str, Any]:
    """Orders a second of a burst."""
    from benchmarks import floor, ours
    from benchmarks.orders import burst_seconds, prepare

    count = options.orders or 2000

    def measured(act: Callable[[list[Any]], None]) -> dict[str, float]:
        act(prepare(count, options.users))
        return {"orders_per_second": count / burst_seconds()}

    rounds = [
        {"floor": measured(lambda orders: asyncio.run(floor.burst(orders, 200))), "ours": measured(lambda orders: ours.burst(orders, 200))}
        for _ in range(options.rounds)
    ]
    return {"figure": "burst", "orders": count, **summary(rounds, {"rate_over_floor": "orders_per_second"})}


def summary(rounds: list[dict[str, dict[str, float]]], ratios: dict[str, str]) -> dict[str, Any]:
    """The medians over the rounds, and each ratio from them."""
    medians = {side: {name: statistics.median(r[side][name] for r in rounds) for name in rounds[0][side]} for side in ("floor", "ours")}
    return {**medians, "ratios": {ratio: medians["ours"][name] / medians["floor"][name] for ratio, name in ratios.items()}, "rounds": rounds}


def report(figures: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(figures, indent=2))
        return
    for side in ("floor", "ours"):
        print(f"{side:>6}: " + "  ".join(f"{name} {value:.1f}" for name, value in figures[side].items()))
    print("ratios: " + "  ".join(f"{name} {value:.2f}" for name, value in figures["ratios"].items()))


if __name__ == "__main__":
    sys.exit(main())
