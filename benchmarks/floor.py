"""The floor: one asyncio process with asyncpg, the same database functions, one call an event, the
same durable writes, no broker.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import asyncpg
from django.conf import settings

from benchmarks.gateway import CALL_MS
from benchmarks.orders import request_bytes
from clearing.flow.flows import CURRENT_FLOW, LAST_STEP, OrderFacts, key_of, plan

CONNECTIONS = 16
ANSWER = b'{"key": "B0000000:1", "state": "done", "reference": "bench-B0000000:1", "done_at_ms": 1700000000000}'
ACTIONS = {2: ("fund", "transfer"), 3: ("trading", "exchange"), 4: ("fund", "transfer")}
Order = tuple[int, OrderFacts]


class Floor:
    """Accepts orders and runs their steps on one event loop."""

    def __init__(self, pool: "asyncpg.Pool[Any]", orders: Sequence[Order]) -> None:
        self.pool = pool
        self.by_clearing: dict[int, OrderFacts] = {}
        self.orders = orders
        self.tasks: set[asyncio.Task[None]] = set()

    async def accept(self, batch: Sequence[Order]) -> None:
        """Opens the clearings and starts the heads of the lanes."""
        firsts = [plan(CURRENT_FLOW, facts, 1) for _, facts in batch]
        refs = await self.pool.fetch(
            "SELECT * FROM clearing_accept($1, $2, $3, $4, $5, 'floor', '', false)",
            [pk for pk, _ in batch],
            [0 for _ in batch],
            [first.key for first in firsts],
            [first.request for first in firsts],
            CURRENT_FLOW,
        )
        for ref in refs:
            task = asyncio.create_task(self.lane(ref["id"], ref["epoch"]))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def lane(self, clearing_id: int | None, epoch: int) -> None:
        """Runs an order, and then its user's next ones."""
        while clearing_id is not None:
            clearing_id, epoch = await self.clear(clearing_id, epoch)

    async def clear(self, clearing_id: int, epoch: int) -> tuple[int | None, int]:
        """The five events of an order. Returns the user's next one."""
        work = await self.pool.fetchrow("SELECT * FROM clearing_claim($1, $2, 'floor', 12)", clearing_id, epoch)
        assert work is not None
        facts = OrderFacts(work["order_id"], work["user_id"], work["contract_id"], "OPEN", work["asset"], work["quantity"], work["quoted_usdt"])
        requests, operation = request_bytes(facts), work["operation_id"]
        for step in range(2, LAST_STEP + 1):
            await asyncio.sleep(CALL_MS / 1000)
            row = await self.pool.fetchrow(
                "SELECT operation_id FROM clearing_step_done($1,$2,$3,'floor',$4,false,5,0,$5,$6,1,$7,$8,$9,$10,true,12,'')",
                *(clearing_id, epoch, facts.user_id, operation, ANSWER, step, *ACTIONS[step], key_of(facts.order_id, step), requests[step - 1]),
            )
            assert row is not None
            operation = row["operation_id"]
        await asyncio.sleep(CALL_MS / 1000)
        row = await self.pool.fetchrow(
            "SELECT (next).id, (next).epoch FROM clearing_finish($1,$2,$3,'floor',$4,false,5,0,$5,0,'')",
            *(clearing_id, epoch, facts.user_id, operation, ANSWER),
        )
        assert row is not None
        return row["id"], row["epoch"]

    async def drain(self) -> None:
        """Until every lane is at its end."""
        while self.tasks:
            await asyncio.gather(*self.tasks)


def _pool() -> "asyncpg.Pool[Any]":
    session = {name: str(value) for name, value in settings.DATABASE_SESSION.items()}
    return asyncpg.create_pool(settings.DATABASE_URL, min_size=CONNECTIONS, max_size=CONNECTIONS, server_settings=session)


async def paced(orders: Sequence[Order], rate: float) -> None:
    """Accepts one order after another at a fixed rate, and runs them."""
    async with _pool() as pool:
        floor = Floor(pool, orders)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for n, order in enumerate(orders):
            await asyncio.sleep(max(0.0, start + n / rate - loop.time()))
            task = asyncio.create_task(floor.accept([order]))
            floor.tasks.add(task)
            task.add_done_callback(floor.tasks.discard)
        await floor.drain()


async def burst(orders: Sequence[Order], batch: int) -> None:
    """Accepts all at once and runs them."""
    async with _pool() as pool:
        floor = Floor(pool, orders)
        for begin in range(0, len(orders), batch):
            await floor.accept(orders[begin : begin + batch])
        await floor.drain()
