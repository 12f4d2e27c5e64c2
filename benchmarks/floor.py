"""The floor: one asyncio process with asyncpg, the service's own statements (`clearing.store.
statements`), one call an event, the same durable writes, no broker.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
from django.conf import settings

from benchmarks.gateway import CALL_MS
from benchmarks.orders import request_bytes
from clearing.flow.amounts import ZERO
from clearing.flow.flows import CURRENT_FLOW, LAST_STEP, OrderFacts, key_of, plan
from clearing.store import statements

CONNECTIONS = 16
ANSWER = b'{"key": "B0000000:1", "state": "done", "reference": "bench-B0000000:1", "done_at_ms": 1700000000000}'
ACTIONS = {2: ("fund", "transfer"), 3: ("trading", "exchange"), 4: ("fund", "transfer")}
ACTOR: Final = {"actor": "floor", "generation": ""}
CLAIM_SECONDS = 12.0
Order = tuple[int, OrderFacts]


class Floor:
    """Accepts orders and runs their steps on one event loop. The group of tasks ends with the last
    lane; the first task that fails ends it with an error.
    """

    def __init__(self, pool: "asyncpg.Pool[Any]", tasks: asyncio.TaskGroup) -> None:
        self.pool = pool
        self.tasks = tasks

    async def accept(self, batch: Sequence[Order]) -> None:
        """Opens the clearings and starts the heads of the lanes."""
        firsts = [plan(CURRENT_FLOW, facts, 1) for _, facts in batch]
        refs = await self._fetch(
            statements.ACCEPT,
            orders=[pk for pk, _ in batch],
            lanes=[0 for _ in batch],
            counterparties=[first.counterparty for first in firsts],
            actions=[first.action for first in firsts],
            keys=[first.key for first in firsts],
            requests=[first.request for first in firsts],
            flow=CURRENT_FLOW,
            restored=False,
            limited=[False for _ in batch],
            user_usdt_max=settings.CLEARING_USER_USDT_PER_DAY_MAX,
            key_retention_seconds=settings.KEY_RETENTION_SECONDS,
            **ACTOR,
        )
        for ref in refs:
            self.tasks.create_task(self.lane(ref["id"], ref["epoch"]))

    async def lane(self, clearing_id: int | None, epoch: int) -> None:
        """Runs an order, and then its user's next ones."""
        while clearing_id is not None:
            clearing_id, epoch = await self.clear(clearing_id, epoch)

    async def clear(self, clearing_id: int, epoch: int) -> tuple[int | None, int]:
        """The five events of an order. Returns the user's next one."""
        claim = {"id": clearing_id, "epoch": epoch, "worker": "floor"}
        [work] = await self._fetch(statements.CLAIM, **claim, claim_seconds=CLAIM_SECONDS, alone=False)
        facts = OrderFacts(work["order_id"], work["user_id"], work["contract_id"], "OPEN", work["asset"], work["quantity"], work["quoted_usdt"])
        requests, operation = request_bytes(facts), work["operation_id"]
        done = {**claim, "user": facts.user_id, "asked": False, "sent_ms_ago": 5.0, "answered_ms_ago": 0.0, "response": ANSWER, "generation": ""}
        for step in range(2, LAST_STEP + 1):
            await asyncio.sleep(CALL_MS / 1000)
            counterparty, action = ACTIONS[step]
            following = {"step": step, "part": 1, "counterparty": counterparty, "action": action, "parks": "", "holds": False}
            [row] = await self._fetch(
                statements.STEP_DONE,
                **done,
                **following,
                operation=operation,
                key=key_of(facts.order_id, step),
                request=requests[step - 1],
                in_place=True,
                claim_seconds=CLAIM_SECONDS,
            )
            operation = row["operation_id"]
        await asyncio.sleep(CALL_MS / 1000)
        [row] = await self._fetch(statements.FINISH, **done, step=LAST_STEP, operation=operation, slippage=ZERO, surplus=ZERO, dust=ZERO)
        return row["next_id"], row["next_epoch"]

    async def _fetch(self, statement: str, **arguments: object) -> list[Any]:
        sql, names = statements.numbered(statement)
        return list(await self.pool.fetch(sql, *[arguments[name] for name in names]))


def _pool() -> "asyncpg.Pool[Any]":
    session = {name: str(value) for name, value in settings.DATABASE_SESSION.items()}
    return asyncpg.create_pool(settings.DATABASE_URL, min_size=CONNECTIONS, max_size=CONNECTIONS, server_settings=session)


async def paced(orders: Sequence[Order], rate: float) -> None:
    """Accepts one order after another at a fixed rate, and runs them."""
    async with _pool() as pool, asyncio.TaskGroup() as tasks:
        floor = Floor(pool, tasks)
        loop = asyncio.get_running_loop()
        start = loop.time()
        for n, order in enumerate(orders):
            await asyncio.sleep(max(0.0, start + n / rate - loop.time()))
            tasks.create_task(floor.accept([order]))


async def burst(orders: Sequence[Order], batch: int) -> None:
    """Accepts all at once and runs them."""
    async with _pool() as pool, asyncio.TaskGroup() as tasks:
        floor = Floor(pool, tasks)
        for begin in range(0, len(orders), batch):
            await floor.accept(orders[begin : begin + batch])
