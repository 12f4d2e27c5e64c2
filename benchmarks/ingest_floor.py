"""The floor of intake, as a process: the simplest loop that stores every order.

It polls the same topic with the same settings: `json.loads`, a multi-row INSERT into each of the
two tables, one commit for INTAKE_BATCH_ROWS_MAX rows, then the offsets. No checks, no hash, no
first operation, no history, nothing published.
"""

import json
import time
from decimal import Decimal
from typing import Any

import django
import psycopg2
from django.conf import settings
from kafka import KafkaConsumer
from psycopg2.extras import execute_values

from clearing.store.lanes import lane_of

IDLE_SECONDS = 2
_ORDERS = """
    INSERT INTO orders_syncorder (order_id, user_id, shard, sequence, contract_id, direction, asset, quantity, quoted_usdt, instrument, created_ms,
        source, topic, canonical_hash) VALUES %s ON CONFLICT (order_id) DO NOTHING RETURNING id
"""
_CLEARINGS = """
    INSERT INTO clearing_clearing (order_id, user_id, contract_id, created_ms, shard, sequence, flow, lane, state, epoch) VALUES %s
"""


def run(consumer: KafkaConsumer, connection: Any) -> None:
    """Until nothing came for IDLE_SECONDS."""
    last_data = time.monotonic()
    while time.monotonic() - last_data < IDLE_SECONDS:
        polled = consumer.poll(timeout_ms=300, max_records=settings.INTAKE_BATCH_ROWS_MAX)
        rows = [row for records in polled.values() for record in records for row in json.loads(record.value)["data"]]
        for start in range(0, len(rows), settings.INTAKE_BATCH_ROWS_MAX):
            insert(connection, rows[start : start + settings.INTAKE_BATCH_ROWS_MAX])
        if rows:
            consumer.commit()
            last_data = time.monotonic()


def insert(connection: Any, rows: list[dict[str, str]]) -> None:
    """One transaction."""
    orders = [
        (
            *(row["order_id"], row["user_id"], int(row["shard"]), int(row["sequence"]), row["contract_id"], "OPEN", row["asset"]),
            *(Decimal(row["quantity"]), Decimal(row["quoted_usdt"]), row["instrument"], time.time_ns() // 1_000_000, "kafka", "", ""),
        )
        for row in rows
    ]
    with connection.cursor() as cursor:
        keys = execute_values(cursor, _ORDERS, orders, page_size=len(orders), fetch=True)
        clearings = [
            (key, order[1], order[4], order[10], order[2], order[3], 1, lane_of(order[1]), "queued", 1)
            for (key,), order in zip(keys, orders, strict=True)
        ]
        execute_values(cursor, _CLEARINGS, clearings, page_size=len(clearings))
    connection.commit()


def main() -> None:
    django.setup()
    from orders.stream.consumer import connect

    session = " ".join(f"-c {name}={value}" for name, value in settings.DATABASE_SESSION.items())
    with psycopg2.connect(settings.DATABASE_URL, options=session) as connection:
        consumer = connect(settings.KAFKA_GROUP)
        run(consumer, connection)
        consumer.close(autocommit=False)


if __name__ == "__main__":
    main()
