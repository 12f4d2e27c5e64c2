"""Seconds without a leader after the leader was killed, or was asked to stop: three real processes,
on servers of their own.

From the signal to the first write of another, by the database: that is, with the election, the next
term and the wait for open transactions.
"""

import random
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from tests.leadership.trial import Contender, Trial

SESSION_SECONDS = 4.0
WAYS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
KINDS = {"lease": 0, "zookeeper": 1}
SECONDS_MAX = 30.0


def figures(folder: Path, rounds: int, kinds: list[str]) -> dict[str, Any]:
    """Seconds without a leader, by where leadership is settled and by signal."""
    return {
        "figure": "handover",
        "session_seconds": SESSION_SECONDS,
        "rounds": rounds,
        **{kind: _measure(folder / kind, kind, rounds) for kind in kinds},
    }


def lines(result: dict[str, Any]) -> list[str]:
    return [
        f"{kind:>10} {way}: p50 {figure['p50_seconds']:.3f} s  max {figure['max_seconds']:.3f} s  ({result['rounds']} times)"
        for kind in KINDS
        if kind in result
        for way, figure in result[kind].items()
    ]


def _measure(folder: Path, kind: str, rounds: int) -> dict[str, dict[str, float]]:
    with Trial(folder, KINDS[kind], SESSION_SECONDS) as trial:
        trial.await_write(after=0, seconds=SECONDS_MAX)
        summaries = {}
        for way, number in WAYS.items():
            summaries[way] = _summary([_hand_over(trial, number) for _ in range(rounds)])
            print(f"{kind} {way}: {summaries[way]}", file=sys.stderr)
        return summaries


def _hand_over(trial: Trial, number: signal.Signals) -> float:
    time.sleep(random.random())  # anywhere between two beats
    leader = _leader(trial)
    serial = trial.last_write()[0]
    leader.send(number)
    taken = trial.await_write(after=serial, seconds=SECONDS_MAX, besides=leader.name)
    leader.end(number)
    leader.start()  # the other two go on; the new process queues behind them
    return taken


def _leader(trial: Trial) -> Contender:
    deadline = time.monotonic() + SECONDS_MAX
    while (leader := trial.leader()) is None:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"nobody leads for {SECONDS_MAX:.0f} s")
        time.sleep(0.05)
    return leader


def _summary(taken: list[float]) -> dict[str, float]:
    return {"p50_seconds": statistics.median(taken), "max_seconds": max(taken)}
