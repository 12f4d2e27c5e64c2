"""Replaces every process of a running service one by one while orders flow, and measures what that
adds to their latency (counter to cleared).

On a stack of its own: two workers, two ops workers, two consumers, two beats and the web process.
Each order's latency is the database's: when the counter made it, and when it was cleared. An order
counts for every replacement during which it was unfinished.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg2

from benchmarks.errors import LINE_MAX, BenchmarkError, last_line
from benchmarks.machine import Rate, held, slowness
from benchmarks.shares import percentile
from stack.launcher import Stack
from stack.processes import wait_until
from stack.rundir import CHECKOUT
from stack.services import Services

PROCESSES = "worker=2 worker-ops=2 consumer=2 beat=2"
ORDER = ("web", "consumer", "consumer.2", "worker-ops", "worker-ops.2", "worker-suspects", "beat", "beat.2", "worker", "worker.2")
WARM_UP_SECONDS = 5.0  # of orders
STEADY_SHARE, STEADY_MS_MAX = 0.95, 500.0  # so many of the newest orders are cleared within this
START_SECONDS_MAX = 40.0  # until orders flow steadily at a rate
RATE_MAX = 40.0  # orders a second, unless told otherwise
LATENCY_MS_MAX = 2_000  # of one order because of an upgrade; this and the two above are meant on two quiet cores
P99_FACTOR_MAX, P99_MORE_MS_MAX = 3.0, 100.0
CLEARED = """
    SELECT created_ms, extract(epoch FROM cleared_at)::float8 * 1000 - created_ms FROM clearing_clearing WHERE state = 'cleared' AND created_ms >= %s
"""


@dataclass(frozen=True)
class Cost:
    """Latencies of the orders of a span of time, in ms (None where there were no orders); CPU
    seconds that the new process took until it was in its place.
    """

    what: str
    seconds: float
    orders: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    start_cpu_s: float | None = None
    busy: float | None = None  # of all CPUs

    @classmethod
    def of(cls, what: str, span: "Span", latencies: Sequence[tuple[float, float]]) -> "Cost":
        values = sorted(ms for created, ms in latencies if created < span.end and created + ms > span.start)
        if not values:
            return cls(what, (span.end - span.start) / 1000, 0, None, None, None, span.start_cpu_s, span.busy)
        p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
        return cls(what, (span.end - span.start) / 1000, len(values), p50, p99, values[-1], span.start_cpu_s, span.busy)


@dataclass
class Span:
    """From, to, in ms since the epoch."""

    start: float
    end: float
    start_cpu_s: float | None = None
    busy: float | None = None


@contextmanager
def measured() -> Iterator[Span]:
    """The time that the block takes, and how busy the machine was."""
    psutil.cpu_percent()
    span = Span(time.time() * 1000, 0.0)
    yield span
    span.end, span.busy = time.time() * 1000, psutil.cpu_percent() / 100


class Service:
    """The whole service in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.stack = Stack(folder, os.environ)
        self.environment = {**os.environ, "RUN_DIR": str(folder), "PROCESSES": PROCESSES, "LOG_LEVEL": "WARNING"}
        self.services = Services(self.stack, counts=PROCESSES)

    def manage(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        command = [sys.executable, "manage.py", *words]
        return subprocess.run(command, cwd=CHECKOUT, env={**self.environment, **more}, capture_output=True, text=True, check=False)

    def manage_or_fail(self, *words: str, **more: str) -> None:
        """The same. Raises BenchmarkError with what it said last unless it ends with 0."""
        ended = self.manage(*words, **more)
        if ended.returncode:
            raise BenchmarkError(f"{words[0]} ended with {ended.returncode}: {ended.stderr.strip()[-LINE_MAX:]}")

    @contextmanager
    def up(self) -> Iterator[dict[str, str]]:
        try:
            variables = self.stack.up()
            self.manage_or_fail("migrate", "--verbosity=0", DATABASE_STATEMENT_MS_MAX="0")
            self.manage_or_fail("first_start", "--sandbox")
            self.manage_or_fail("stack", "services", "up")
            yield variables
        finally:
            self.services.down()
            self.stack.down()

    @contextmanager
    def placing(self, rate: float) -> Iterator["subprocess.Popen[bytes]"]:
        """Orders at an even rate while the block runs. Raises BenchmarkError when their placing
        ends before the block does.
        """
        command = [sys.executable, "manage.py", "place_orders", "--count=1000000", "--users=100", f"--rate={rate}", "--seed=1"]
        log = self.stack.run_dir.logs / "place_orders.log"
        with log.open("wb") as out, subprocess.Popen(command, cwd=CHECKOUT, env=self.environment, stdout=out, stderr=out) as process:
            try:
                yield process
                if process.poll() is not None:
                    raise BenchmarkError(f"place_orders ended with {process.returncode} while it was needed: {last_line(log)} ({log})")
            finally:
                process.kill()

    @contextmanager
    def flowing(self, rate: Rate, database_url: str) -> Iterator[Rate]:
        """Orders flow steadily while the block runs, at the rate or, where the machine doesn't
        clear that many beside its own processes, at the highest of its halves that it does. A rate
        that was given isn't lowered. Raises BenchmarkError when no rate flows.
        """
        for lower in [rate] if rate.holds is None else rate.halves():
            with self.placing(lower.places):
                if flows_steadily(database_url, lower.places):
                    yield lower
                    return
            print(f"orders don't flow steadily at {lower.places:g}/s", file=sys.stderr, flush=True)
        limits = f"{STEADY_SHARE:.0%} of the orders within {slowness().scaled(STEADY_MS_MAX):.0f} ms"
        raise BenchmarkError(f"not even at {lower.places:g} orders/s are {limits}: see the logs of the run's folder; {slowness()}")

    def place(self, count: int, rate: float) -> None:
        """So many orders. Raises BenchmarkError when not all are placed."""
        self.manage_or_fail("place_orders", f"--count={count}", "--users=100", f"--rate={rate}")

    def rate(self, given: float | None, database_url: str) -> Rate:
        """Orders a second that the run places: as told, or a share of what the service holds."""
        return Rate(given) if given else Rate.of(held(self.place, database_url), RATE_MAX)

    def replace(self, name: str) -> Span:
        """One process, by a successor that is in its place before the old one is told to stop."""
        with measured() as span:
            self.services.replace([name])
        pid = next(line.pid for line in self.services.status() if line.name == name)
        times = psutil.Process(pid).cpu_times()
        span.start_cpu_s = times.user + times.system
        return span


def figures(folder: Path, given_rate: float | None, seconds: float, names: Sequence[str] = ORDER) -> dict[str, Any]:
    """Runs it all; `seconds` is how long the flow is watched before, `names` the processes to
    replace. Raises BenchmarkError.
    """
    if unknown := [name for name in names if name not in ORDER]:
        raise BenchmarkError(f"no process is called {', '.join(unknown)}: there are {', '.join(ORDER)}")
    service = Service(folder)
    with service.up() as variables:
        rate = service.rate(given_rate, variables["DATABASE_URL"])
        print(f"{rate}; {slowness()}", file=sys.stderr, flush=True)
        began = time.time() * 1000
        with service.flowing(rate, variables["DATABASE_URL"]) as rate:
            with measured() as before:
                time.sleep(seconds)
            spans = {name: service.replace(name) for name in names}
        audit = service.manage("audit", "--json", "--wait=60")
        latencies = read_latencies(variables["DATABASE_URL"], began)
    whole = Span(min(span.start for span in spans.values()), max(span.end for span in spans.values()))
    costs = [Cost.of(name, span, latencies) for name, span in spans.items()]
    first, during = Cost.of("before", before, latencies), Cost.of("during", whole, latencies)
    return {
        "figure": "rolling",
        "rate": rate.places,
        "machine": rate.as_json(),
        "says": f"{rate}; {slowness()}",
        "before": asdict(first),
        "during": asdict(during),
        "each": [asdict(cost) for cost in costs],
        "goals": goals(first, during),
        "audit": audit_result(audit),
    }


def flows_steadily(database_url: str, rate: float) -> bool:
    """Whether orders came to flow steadily in time: what had piled up at the start is cleared."""
    steady_ms_max, seconds_max = slowness().scaled(STEADY_MS_MAX), slowness().scaled(START_SECONDS_MAX)

    def flows() -> bool:
        newest = sorted(ms for _, ms in read_latencies(database_url, (time.time() - WARM_UP_SECONDS) * 1000))
        return len(newest) >= 0.8 * WARM_UP_SECONDS * rate and percentile(newest, STEADY_SHARE) < steady_ms_max

    return wait_until(flows, seconds_max, pause_seconds=0.5)


def read_latencies(database_url: str, since_ms: float) -> list[tuple[float, float]]:
    """(created, ms to cleared) of every order that is cleared."""
    session = psycopg2.connect(database_url)
    try:
        with session.cursor() as cursor:
            cursor.execute(CLEARED, [since_ms])
            return list(cursor.fetchall())
    finally:
        session.close()


def goals(before: Cost, during: Cost) -> dict[str, bool]:
    """What an upgrade may cost at most. Raises BenchmarkError where no order was measured."""
    if before.p99_ms is None or during.p99_ms is None or during.max_ms is None:
        raise BenchmarkError(f"no order was cleared {'before' if before.p99_ms is None else 'during'} the replacements")
    latency_ms_max, more_ms_max = slowness().scaled(LATENCY_MS_MAX), slowness().scaled(P99_MORE_MS_MAX)
    p99_ms_max = max(P99_FACTOR_MAX * before.p99_ms, before.p99_ms + more_ms_max)
    return {
        f"no order above {latency_ms_max / 1000:.1f} s": during.max_ms <= latency_ms_max,
        f"p99 at most {P99_FACTOR_MAX:.0f}x of before, or {more_ms_max:.0f} ms more": during.p99_ms <= p99_ms_max,
    }


def audit_result(ended: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Its exit code, and how many orders it compared."""
    try:
        report: Mapping[str, Any] = json.loads(ended.stdout)
    except ValueError:
        return {"exit_code": ended.returncode, "error": ended.stderr[-2000:]}
    return {"exit_code": ended.returncode, "placed": report["placed"], "cleared": report["cleared"]}


def lines(result: Mapping[str, Any]) -> list[str]:
    """The figures as text."""
    rows = [result["before"], *result["each"], result["during"]]
    table = [f"{'':<14}{'s':>7}{'orders':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'start CPU s':>13}{'busy':>7}"]
    for row in rows:
        cpu = f"{row['start_cpu_s']:.1f}" if row["start_cpu_s"] is not None else ""
        busy = f"{row['busy']:.0%}" if row["busy"] is not None else ""
        latencies = "".join(f"{'' if row[name] is None else format(row[name], '.1f'):>9}" for name in ("p50_ms", "p99_ms", "max_ms"))
        table.append(f"{row['what']:<14}{row['seconds']:>7.1f}{row['orders']:>8}{latencies}{cpu:>13}{busy:>7}")
    met = [f"{'met' if reached else 'MISSED'}: {goal}" for goal, reached in result["goals"].items()]
    return [result["says"], *table, *met, f"audit: {result['audit']}"]
