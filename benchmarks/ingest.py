"""Orders a second from Kafka's messages to committed rows: `manage.py consume_binlog` itself, on a
core of its own, beside a floor.

Every order is of another user, the most expensive case: each is promoted and published at once.
Both sides read the same topic, written before the clock starts. The time is the database's: from
the first transaction's first row to the last transaction's end, so without a process's start. The
floor (benchmarks/ingest_floor.py) is the simplest loop, in a process of its own on the same core.
"""

import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from django.conf import settings
from django.db import connection
from kafka import KafkaProducer

from benchmarks.cores import pin
from benchmarks.errors import BenchmarkError, last_line
from benchmarks.ingest_floor import IDLE_SECONDS
from benchmarks.machine import slowness
from clearing.dispatch import broker
from clearing.models import Attempt, Clearing, Operation, StatusChange
from orders.models import Quarantined, SyncOrder, Watermark
from stack.kafka import ensure_topic
from tests.orders.messages import message, row
from tests.support.states import rewritable

ROWS_A_MESSAGE = (1, 50)
RUN_SECONDS_MAX = 120
SIDES: Mapping[str, Sequence[str]] = {
    "floor": ["-m", "benchmarks.ingest_floor"],
    "ours": ["manage.py", "consume_binlog", "--until-idle", str(IDLE_SECONDS)],
}
TABLES = ", ".join(model._meta.db_table for model in (Attempt, StatusChange, Operation, Clearing, SyncOrder, Watermark, Quarantined))
# Rows are stamped when they are written; a transaction's last ones are those of its history.
_SECONDS = """
    SELECT extract(epoch FROM greatest((SELECT max(changed_at) FROM clearing_clearing), (SELECT max(at) FROM clearing_statuschange))
        - (SELECT min(received_at) FROM orders_syncorder))
"""


def figures(orders: int, rounds: int, core: int, log: Path) -> dict[str, Any]:
    """Of each case the medians over the rounds, and how many times the floor's time ours takes."""
    return {
        "figure": "ingest",
        "orders": orders,
        "database": _durability(),
        "cases": {_name(rows): _case(rows, orders, rounds, core, log) for rows in ROWS_A_MESSAGE},
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The figures as text."""
    return [
        *(
            f"{name:>24}: {case['ours']:>9,.0f} orders/s committed and published, naive loop {case['floor']:>9,.0f} committed,"
            f" takes {case['time_over_floor']:.2f} times as long"
            for name, case in result["cases"].items()
        ),
        f"{result['cores']}; " + ", ".join(f"{name} {value}" for name, value in result["database"].items()),
    ]


def _name(rows: int) -> str:
    return f"{rows} {'row' if rows == 1 else 'rows'} a message"


def _durability() -> dict[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')")
        return dict(cursor.fetchall())


def _case(rows: int, orders: int, rounds: int, core: int, log: Path) -> dict[str, Any]:
    topic = f"bench-{uuid.uuid4().hex[:12]}"
    _write(topic, rows, orders)
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side in SIDES:
            rates[side].append(_run(side, topic, orders, core, log))
    medians = {side: statistics.median(values) for side, values in rates.items()}
    return {**medians, "time_over_floor": medians["floor"] / medians["ours"], "rounds": rates}


def _write(topic: str, rows: int, orders: int) -> None:
    """Messages of so many rows each, round the partitions, as Canal prints them."""
    ensure_topic(settings.KAFKA_BOOTSTRAP_SERVERS[0], topic)
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    producer = KafkaProducer(bootstrap_servers=settings.KAFKA_BOOTSTRAP_SERVERS, linger_ms=5, metrics_enabled=False)
    try:
        for first in range(0, orders, rows):
            numbers = range(first, min(first + rows, orders))
            columns = [
                row(
                    f"B{n:09d}",
                    id=str(n),
                    user_id=str(1_000_000 + n),
                    contract_id=f"C{n:09d}",
                    sequence=str(n),
                    created_at=f"{created}.{n % 1000:03d}",
                )
                for n in numbers
            ]
            producer.send(topic, message(*columns), partition=first // rows % 4)
        producer.flush()
    finally:
        producer.close()


def _run(side: str, topic: str, orders: int, core: int, log: Path) -> float:
    """Orders a second of one side. Raises BenchmarkError when it failed or left one out."""
    empty()
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, *SIDES[side]], env=_environment(side, topic, log), stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
        try:
            with suppress(psutil.NoSuchProcess):  # it has ended: its exit code says why
                pin(core, process.pid)
            process.wait(slowness().scaled(RUN_SECONDS_MAX))
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError(f"{side} didn't end within {error.timeout:.0f} s: {last_line(log)} ({log}); {slowness()}") from error
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise BenchmarkError(f"{side} ended with {process.returncode}: {last_line(log)} ({log})")
    _check(side, orders)
    with connection.cursor() as cursor:
        cursor.execute(_SECONDS)
        return orders / float(cursor.fetchone()[0])


def empty() -> None:
    """The service's tables and broker, without a row; this session has no time limits from here
    on.
    """
    broker.client().flushdb()
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0; SET transaction_timeout = 0")
        with rewritable():
            cursor.execute(f"TRUNCATE {TABLES} RESTART IDENTITY CASCADE")
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("CHECKPOINT")


def _environment(side: str, topic: str, log: Path) -> dict[str, str]:
    """As the Procfile runs it: a static member, metrics in a shared folder."""
    shared = log.parent / "metrics"
    shared.mkdir(exist_ok=True)
    own = {"KAFKA_TOPIC": topic, "KAFKA_GROUP": f"{topic}-{side}-{uuid.uuid4().hex[:6]}", "KAFKA_INSTANCE_ID": "bench-1"}
    return {**os.environ, **own, "METRICS_DIR": str(shared), "PROMETHEUS_MULTIPROC_DIR": str(shared)}


def _check(side: str, orders: int) -> None:
    """Everything is there, and what is queued was published."""
    stored, clearings = SyncOrder.objects.count(), Clearing.objects.count()
    published = sum(broker.client().llen(key) for key in broker.client().scan_iter("clearing.lane.*"))
    if stored != orders or clearings != orders or (side == "ours" and published != orders):
        raise BenchmarkError(f"{side}: of {orders} orders {stored} are stored, {clearings} have a clearing, {published} were published")
