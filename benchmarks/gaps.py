"""Time of a gap pass that finds nothing new: `run_gap_pass` itself, on a core of its own, over 0,
10, … and 1,000,000 known orders.

The orders are in our tables, cleared, and at a small counter, a process reached by HTTP
(benchmarks/counter.py) on the other core. 3,000 and 30,000 rows are what the default overlap of 30
s holds at 100 and at 1,000 orders/s. The floor requests the same pages, `json.loads`, and looks the
ids up; it maps nothing and compares no contents.
"""

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection

from benchmarks.cores import pin
from benchmarks.counter import BASE_MS, CLEARINGS_SQL, ORDERS_SQL
from benchmarks.errors import BenchmarkError, last_line
from benchmarks.ingest import empty
from benchmarks.machine import slowness
from ops.wiring import run_gap_pass
from orders.models import SyncOrder, Watermark
from stack.ports import LOOPBACK, find_free
from tests.support.states import any_transition

OVERLAPS = (0, 10, 3_000, 30_000)
FILL_ROWS = 100_000  # of one transaction
LONG_ROWS = 100_000  # a pass over more is measured once
START_SECONDS_MAX = 10


def figures(known: int, rounds: int, core: int, log: Path) -> dict[str, Any]:
    """Of each overlap the median seconds of a pass, ours and the floor's, and our rows a second."""
    cases = [*(rows for rows in OVERLAPS if rows < known), known]
    fill(known)
    with counter(known, log) as port:
        settings.GAP_OVERLAP_MS = 0  # each case's position says how much is read
        settings.COUNTERPARTY_URLS["counter"] = f"http://{LOOPBACK}:{port}"
        pin(core, os.getpid())
        sides = {"floor": lambda start_ms: _naive(port, start_ms), "ours": lambda _: _pass()}
        return {"figure": "gaps", "known": known, "passes": {f"{rows:,}": _case(sides, known, rows, rounds) for rows in cases}}


def lines(result: dict[str, Any]) -> list[str]:
    """The figures as text."""
    return [
        *(
            f"{rows:>10} rows known: {case['ours']:>9.4f} s a pass ({case['rows_per_second']:,.0f} rows/s), naive pass {case['floor']:.4f} s,"
            f" takes {case['time_over_floor']:.2f} times as long"
            for rows, case in result["passes"].items()
        ),
        result["cores"],
    ]


def fill(known: int) -> None:
    """Our tables with that many cleared orders."""
    empty()
    with connection.cursor() as cursor:
        for start in range(0, known, FILL_ROWS):
            bounds = [start, min(start + FILL_ROWS, known) - 1]
            cursor.execute(ORDERS_SQL, bounds)
            with any_transition():
                cursor.execute(CLEARINGS_SQL, bounds)
        cursor.execute("VACUUM ANALYZE")


@contextmanager
def counter(rows: int, log: Path) -> Iterator[int]:
    """The counter's process; its port."""
    port = find_free(set())
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.counter", str(port), str(rows)], stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        _wait_for(f"http://{LOOPBACK}:{port}/v1/shards", process, log)
        yield port
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Returns once the counter answers. Raises BenchmarkError when it doesn't in time."""
    deadline = time.monotonic() + slowness().scaled(START_SECONDS_MAX)
    while True:
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310 - our own process
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"the counter of the benchmark doesn't answer ({error}): {last_line(log)} ({log})") from error
            time.sleep(0.05)
        else:
            return


def _case(sides: dict[str, Callable[[int], int]], known: int, rows: int, rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds if rows <= LONG_ROWS else 1):
        for side, act in sides.items():
            seconds[side].append(_seconds(act, known, rows))
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    return {**medians, "rows_per_second": rows / medians["ours"], "time_over_floor": medians["ours"] / medians["floor"]}


def _seconds(act: Callable[[int], int], known: int, rows: int) -> float:
    """Of one pass. Raises BenchmarkError when it read other rows than it should, or took one for
    new.
    """
    start_ms = BASE_MS + known - rows
    Watermark.objects.update_or_create(shard=0, defaults={"scanned_through_ms": start_ms})
    started = time.perf_counter()
    read = act(start_ms)
    seconds = time.perf_counter() - started
    if read != rows or SyncOrder.objects.count() != known:
        raise BenchmarkError(f"the pass read {read} rows instead of {rows}; {SyncOrder.objects.count()} orders instead of {known}")
    return seconds


def _pass() -> int:
    result = run_gap_pass()
    if result is None or result.failed or result.ingested.known != result.rows:
        raise BenchmarkError(f"the pass failed: {result}")
    return result.rows


def _naive(port: int, start_ms: int) -> int:
    client = HTTPConnection(LOOPBACK, port)
    client.request("GET", "/v1/shards")
    client.getresponse().read()
    position: dict[str, int] | None = {"ms": start_ms, "id": 0}
    read = 0
    while position is not None:
        client.request("GET", f"/v1/sync-orders?shard=0&after_ms={position['ms']}&after_id={position['id']}&limit={settings.GAP_PAGE_ROWS}")
        page = json.loads(client.getresponse().read())
        ids = [row["order_id"] for row in page["rows"]]
        with connection.cursor() as cursor:
            cursor.execute("SELECT order_id FROM orders_syncorder WHERE order_id = ANY (%s)", [ids])
            if len(cursor.fetchall()) != len(ids):
                raise BenchmarkError("the floor's pass met: an order isn't known")
        read += len(ids)
        position = page["next"]
    client.close()
    return read
