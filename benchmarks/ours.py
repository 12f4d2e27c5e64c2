"""The service as it runs in production: a real Celery worker, the real broker, the real store; only
the counterparties are in-process.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.db import transaction

from benchmarks.errors import BenchmarkError, last_line
from benchmarks.machine import slowness
from benchmarks.orders import cleared_count, prepare
from clearing.dispatch import broker, publish
from clearing.dispatch.queues import ISOLATED_QUEUE, OPS_QUEUE
from clearing.flow.flows import OrderFacts
from clearing.store import claims

Order = tuple[int, OrderFacts]
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20
WARM_UP_ORDERS = 200


class Workers:
    """Celery workers on every lane. `paced` and `burst` give them orders and wait until all are
    cleared; both raise BenchmarkError when a worker ends, or when it takes too long.
    """

    def __init__(self, command: Sequence[str], processes: int, log: Path) -> None:
        self._log = log
        environment = {
            **os.environ,
            "GATEWAY_KIND": "benchmarks.gateway.sleeping_gateways",
            "DATABASE_URL": settings.DATABASE_URL,
            "BROKER_URL": settings.BROKER_URL,
        }
        with log.open("ab") as out:
            self._processes = [
                subprocess.Popen([*command, "-n", f"bench{n}@%h"], env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
                for n in range(processes)
            ]

    def paced(self, orders: Sequence[Order], rate: float) -> None:
        """Accepts and publishes one order after another at a fixed rate."""
        start = time.monotonic()
        for n, order in enumerate(orders):
            time.sleep(max(0.0, start + n / rate - time.monotonic()))
            _accept([order])
        self._wait_cleared(len(orders), seconds_max=60)

    def burst(self, orders: Sequence[Order], batch: int, seconds_max: float = 120) -> None:
        """Accepts all at once."""
        for begin in range(0, len(orders), batch):
            _accept(orders[begin : begin + batch])
        self._wait_cleared(len(orders), seconds_max)

    def check(self) -> None:
        """Raises BenchmarkError when one has ended."""
        for process in self._processes:
            if process.poll() is not None:
                raise BenchmarkError(f"a worker ended with {process.returncode} while it was measured: {last_line(self._log)} ({self._log})")

    def stop(self) -> None:
        """Asks them to end; kills who doesn't."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            end(process)

    def _wait_cleared(self, count: int, seconds_max: float) -> None:
        scaled = slowness().scaled(seconds_max)
        deadline = time.monotonic() + scaled
        while (cleared := cleared_count()) < count:
            self.check()
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{cleared} of {count} orders were cleared within {scaled:.0f} s: look at {self._log}; {slowness()}")
            time.sleep(0.25)


@contextmanager
def worker(*, threads: int, processes: int, log: Path) -> Iterator[Workers]:
    """Real workers on every lane, warmed up; stopped at the end."""
    broker.client().flushdb()
    command = [sys.executable, "-m", "celery", "-A", "acceptance_site", "worker", "-P", "threads", "-c", str(threads)]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING", "-X", f"{OPS_QUEUE},{ISOLATED_QUEUE}"]
    workers = Workers(command, processes, log)
    try:
        workers.burst(prepare(WARM_UP_ORDERS, WARM_UP_ORDERS), batch=50, seconds_max=START_SECONDS_MAX)
        yield workers
    finally:
        workers.stop()


def end(process: "subprocess.Popen[bytes]", seconds: float = STOP_SECONDS_MAX) -> None:
    """Waits until it has ended; kills it after that time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _accept(batch: Sequence[Order]) -> None:
    with transaction.atomic():
        refs = claims.accept(batch, actor="benchmark", generation=publish.generation())
    publish.publish(refs)
