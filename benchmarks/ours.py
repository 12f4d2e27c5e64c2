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

from benchmarks.orders import cleared_count, prepare
from clearing.dispatch import broker, publish
from clearing.dispatch.queues import ISOLATED_QUEUE, OPS_QUEUE
from clearing.flow.flows import OrderFacts
from clearing.store import claims

Order = tuple[int, OrderFacts]
START_SECONDS_MAX = 60
WARM_UP_ORDERS = 200


@contextmanager
def worker(*, threads: int, processes: int, log: Path) -> Iterator[None]:
    """Real workers on every lane, warmed up; stopped at the end."""
    broker.client().flushdb()
    command = [sys.executable, "-m", "celery", "-A", "acceptance_site", "worker", "-P", "threads", "-c", str(threads)]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING", "-X", f"{OPS_QUEUE},{ISOLATED_QUEUE}"]
    environment = {
        **os.environ,
        "GATEWAY_KIND": "benchmarks.gateway.sleeping_gateways",
        "DATABASE_URL": settings.DATABASE_URL,
        "BROKER_URL": settings.BROKER_URL,
    }
    with log.open("ab") as out:
        workers = [
            subprocess.Popen([*command, "-n", f"bench{n}@%h"], env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
            for n in range(processes)
        ]
    try:
        burst(prepare(WARM_UP_ORDERS, WARM_UP_ORDERS), batch=50, seconds_max=START_SECONDS_MAX)
        yield
    finally:
        for process in workers:
            process.send_signal(signal.SIGTERM)
        for process in workers:
            process.wait(20)


def _accept(batch: Sequence[Order]) -> None:
    with transaction.atomic():
        refs = claims.accept(batch, actor="benchmark", generation=publish.generation())
    publish.publish(refs)


def _wait_cleared(count: int, seconds_max: float) -> None:
    deadline = time.monotonic() + seconds_max
    while cleared_count() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{cleared_count()} of {count} orders cleared in {seconds_max} s: look at the worker's log")
        time.sleep(0.25)


def paced(orders: Sequence[Order], rate: float) -> None:
    """Accepts and publishes one order after another at a fixed rate; waits until all are
    cleared.
    """
    start = time.monotonic()
    for n, order in enumerate(orders):
        time.sleep(max(0.0, start + n / rate - time.monotonic()))
        _accept([order])
    _wait_cleared(len(orders), seconds_max=60)


def burst(orders: Sequence[Order], batch: int, seconds_max: float = 120) -> None:
    """Accepts all at once; waits until all are cleared."""
    for begin in range(0, len(orders), batch):
        _accept(orders[begin : begin + batch])
    _wait_cleared(len(orders), seconds_max)
