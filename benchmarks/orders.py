"""The orders of a run: written before the clock starts, the same for the floor and for us."""

import time
from decimal import Decimal

from django.db import connection
from psycopg2.extras import execute_values

from benchmarks.errors import BenchmarkError
from clearing.flow.flows import CURRENT_FLOW, OrderFacts, plan
from clearing.models import Attempt, Clearing, Operation, StatusChange
from orders.models import SyncOrder
from tests.support.states import rewritable


def prepare(count: int, users: int) -> list[tuple[int, OrderFacts]]:
    """Empties the tables and writes `count` orders of `users` users, round and round. Returns
    (primary key, facts).
    """
    tables = ", ".join(model._meta.db_table for model in (Attempt, StatusChange, Operation, Clearing, SyncOrder))
    facts = [
        OrderFacts(f"B{n:07d}", str(1000 + n % users), f"C{n:07d}", "OPEN", "BTC" if n % 2 else "ETH", Decimal("0.05"), Decimal("2500.25"))
        for n in range(count)
    ]
    first_ms = int(time.time() * 1000) - count  # of just now: older than keys are kept, each step would begin with a question
    rows = [
        (f.order_id, f.user_id, 0, n, f.contract_id, f.direction, f.asset, f.quantity, f.quoted_usdt, "BENCH", first_ms + n, "kafka", "", "")
        for n, f in enumerate(facts)
    ]
    with connection.cursor() as cursor:
        with rewritable():
            cursor.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        execute_values(
            cursor.cursor,
            "INSERT INTO orders_syncorder (order_id, user_id, shard, sequence, contract_id, direction, asset, quantity, quoted_usdt,"
            " instrument, created_ms, source, topic, canonical_hash) VALUES %s",
            rows,
        )
        cursor.execute("SELECT id FROM orders_syncorder ORDER BY id")
        keys = [row[0] for row in cursor.fetchall()]
        cursor.execute("VACUUM ANALYZE")
    return list(zip(keys, facts, strict=True))


def request_bytes(facts: OrderFacts) -> list[bytes]:
    """The requests of an order's steps, for the floor, which doesn't compute them while it is
    measured.
    """
    first = plan(CURRENT_FLOW, facts, 1).request
    return [first, first, first, first]


def overheads_ms(call_ms: float, orders: int) -> list[float]:
    """For each order: from its acceptance to its 4th operation's record, less its four calls, by
    the database's clock; sorted. Raises BenchmarkError unless all of them are cleared.
    """
    check_cleared(orders)
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM cleared_at - accepted_at) * 1000 FROM clearing_clearing WHERE state = 'cleared'")
        return sorted(float(row[0]) - 4 * call_ms for row in cursor.fetchall())


def burst_seconds(orders: int) -> float:
    """From the first acceptance to the last order cleared, by the database's clock. Raises
    BenchmarkError unless all of them are cleared.
    """
    check_cleared(orders)
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM max(cleared_at) - min(accepted_at)) FROM clearing_clearing")
        return float(cursor.fetchone()[0])


def check_cleared(orders: int) -> None:
    """Raises BenchmarkError unless so many are cleared."""
    cleared = cleared_count()
    if cleared != orders or not orders:
        raise BenchmarkError(f"{cleared} of {orders} orders were cleared")


def cleared_count() -> int:
    """How many are cleared so far."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM clearing_clearing WHERE state = 'cleared'")
        return int(cursor.fetchone()[0])
