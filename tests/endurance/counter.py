"""The counter of an endurance run, made lean (the sandbox costs some milliseconds of CPU an order):
`python -m tests.endurance.counter`.

It commits the orders of a seed at an even rate, serves shards and sync orders as docs/contracts/
has it, signatures checked, and publishes each statement as Canal would, through the lossy channel.
All in memory. Unsigned pages of its own: POST /begin, GET /progress. It ends when it is asked to,
after it has written what it committed to --report.
"""

import argparse
import asyncio
import heapq
import json
import os
import threading
import time
from bisect import bisect_right, insort
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn
from kafka import KafkaProducer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox import binlog
from sandbox.problems import Problem
from sandbox.signatures import Signatures
from sandbox.storage import Change, SyncOrderRow
from sandbox.synctable import PAGE_ROWS_MAX, SHARDS, as_json, shard_of
from tests.endurance.channel import Channel, Statement, statements

VALIDITY_MS: Final = 30_000
TICK_SECONDS: Final = 0.002
ID_MAX: Final = 10**18
EXAMPLE = "example: python -m tests.endurance.counter --port 8123 --kafka 127.0.0.1:9092 --orders 1000 --rate 100 --seed 1 --report rows.json"


@dataclass(frozen=True, slots=True)
class Committed:
    """An order as it was committed, for the comparison at the end."""

    row: dict[str, Any]
    committed_ms: float
    dropped: bool
    delayed: bool
    repeated: bool


@dataclass
class Table:
    """The sync-order table, shard by shard in the order of (created_ms, id). Safe in threads."""

    _shards: dict[int, list[tuple[int, int, bytes]]] = field(default_factory=lambda: {shard: [] for shard in SHARDS})
    _newest: dict[int, tuple[int, int]] = field(default_factory=lambda: dict.fromkeys(SHARDS, (0, 0)))  # (sequence, created_ms)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def place(self, user_id: str, now_ms: int) -> tuple[int, int, int]:
        """(shard, sequence, created_ms) of a new row: later in its shard than any other."""
        shard = shard_of(user_id)
        sequence, newest_ms = self._newest[shard]
        self._newest[shard] = sequence + 1, max(now_ms, newest_ms)
        return (shard, *self._newest[shard])

    def commit(self, rows: list[SyncOrderRow]) -> float:
        """Makes the rows visible, together. Returns when, in ms."""
        encoded = [(row.shard, (row.created_ms, row.id, msgspec.json.encode(as_json(row)))) for row in rows]
        with self._lock:
            for shard, entry in encoded:
                insort(self._shards[shard], entry)
        return time.time() * 1000

    def page(self, shard: int, after_ms: int, after_id: int, limit: int) -> tuple[list[bytes], tuple[int, int] | None]:
        """The rows after a position, and the position to go on from where there may be more."""
        with self._lock:
            rows = self._shards[shard]
            start = bisect_right(rows, (after_ms, after_id, b"\xff"))
            found = rows[start : start + limit]
        return [row for _, _, row in found], found[-1][:2] if len(found) == limit else None


class Committer(threading.Thread):
    """Commits what is due and sends what is due, on one timetable: statement by statement, late
    ones later than their rows' time.
    """

    def __init__(self, table: Table, plan: Iterator[Statement], producer: KafkaProducer, topic: str, rate: float) -> None:
        super().__init__(name="committer", daemon=True)
        self._table, self._plan, self._producer, self._topic, self._rate = table, plan, producer, topic, rate
        self._late: list[tuple[float, int, list[SyncOrderRow], Statement]] = []
        self._outbox: list[tuple[float, int, int, bytes]] = []
        self._serial = self._rows = 0
        self.committed: list[Committed] = []
        self.sent = 0
        self.began_at = self.ended_at = 0.0
        self.error = ""  # why it ended before everything was sent
        self.behind_seconds = 0.0  # how late a statement was by the timetable, at most

    @property
    def done(self) -> bool:
        """Everything is committed, and every copy of every message is with Kafka."""
        return bool(self.ended_at)

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            raise

    def _run(self) -> None:
        self.began_at = time.monotonic()
        pending = next(self._plan, None)
        while pending or self._late or self._outbox:
            now = time.monotonic()
            while pending and now >= (due := self.began_at + self._rows / self._rate):
                self.behind_seconds = max(self.behind_seconds, now - due)
                self._take(pending, now)
                pending = next(self._plan, None)
            while self._late and self._late[0][0] <= now:
                _, _, rows, statement = heapq.heappop(self._late)
                self._commit(rows, statement)
            while self._outbox and self._outbox[0][0] <= now:
                _, _, partition, message = heapq.heappop(self._outbox)
                self._producer.send(self._topic, message, partition=partition)
                self.sent += 1
            time.sleep(TICK_SECONDS)
        self._producer.flush()
        self.ended_at = time.monotonic()

    def _take(self, statement: Statement, now: float) -> None:
        self._rows += len(statement.drafts)
        rows = [self._row(draft) for draft in statement.drafts]
        self._serial += 1
        if statement.late_seconds:
            heapq.heappush(self._late, (now + statement.late_seconds, self._serial, rows, statement))
        else:
            self._commit(rows, statement)

    def _row(self, draft: Any) -> SyncOrderRow:
        shard, sequence, created_ms = self._table.place(draft.user_id, time.time_ns() // 1_000_000)
        return SyncOrderRow(
            draft.number + 1, draft.order_id, draft.user_id, shard, sequence, "EXCHANGE", draft.direction, draft.asset, draft.quantity,
            draft.quoted_usdt, f"{draft.asset}-27MAR26-C", f"C{draft.number}", "NEW", created_ms,
        )  # fmt: skip

    def _commit(self, rows: list[SyncOrderRow], statement: Statement) -> None:
        at_ms = self._table.commit(rows)
        fate = {"dropped": statement.dropped, "delayed": statement.delayed, "repeated": len(statement.sendings) > 1}
        self.committed += [Committed(as_json(row), at_ms, **fate) for row in rows]
        if not statement.sendings:
            return
        change = Change("INSERT", rows, None, "", int(at_ms))
        (message,) = binlog.messages(change, batch_id=self._serial, sent_at_ms=int(at_ms), partitions=1)
        for sending in statement.sendings:
            self._serial += 1
            heapq.heappush(self._outbox, (time.monotonic() + sending.after_seconds, self._serial, sending.partition, message.value))


class Pages:
    """The counter's interface, and the harness's two pages."""

    def __init__(self, table: Table, committer: Committer, signatures: Signatures, orders: int) -> None:
        self._table, self._committer, self._signatures, self._orders = table, committer, signatures, orders

    @property
    def routes(self) -> list[Route]:
        signed = {"/counter/v1/shards": self._shards, "/counter/v1/sync-orders": self._sync_orders}
        own = [Route("/begin", self._begin, methods=["POST"]), Route("/progress", self._progress)]
        return [*(Route(path, page) for path, page in signed.items()), *own]

    async def _shards(self, request: Request) -> Response:
        return self._checked(request) or JSONResponse({"shards": list(SHARDS), "now_ms": time.time_ns() // 1_000_000})

    async def _sync_orders(self, request: Request) -> Response:
        if refusal := self._checked(request):
            return refusal
        given = request.query_params
        limit = min(int(given.get("limit", PAGE_ROWS_MAX)), PAGE_ROWS_MAX)
        now_ms = time.time_ns() // 1_000_000
        rows, following = self._table.page(int(given["shard"]), int(given.get("after_ms", 0)), int(given.get("after_id", 0)), limit)
        position = b"null" if following is None else b'{"ms":%d,"id":%d}' % following
        body = b'{"shard":%s,"now_ms":%d,"rows":[%s],"next":%s}' % (given["shard"].encode(), now_ms, b",".join(rows), position)
        return Response(body, media_type="application/json")

    def _checked(self, request: Request) -> Response | None:
        """The refusal of a request that isn't signed as the contract says."""
        target = request.scope["raw_path"] + b"?" + request.scope["query_string"] if request.scope["query_string"] else request.scope["raw_path"]
        headers = request.headers
        try:
            self._signatures.check(
                "counter",
                method="GET",
                target=target,
                timestamp=headers.get("X-Timestamp", "").encode(),
                body=b"",
                signature=headers.get("X-Signature", "").encode(),
                now_ms=time.time_ns() // 1_000_000,
            )
        except Problem as problem:
            answer = problem.answer()
            return Response(answer.body, status_code=answer.status, media_type="application/problem+json")
        return None

    async def _begin(self, _: Request) -> Response:
        self._committer.start()
        return JSONResponse({"orders": self._orders}, status_code=202)

    async def _progress(self, _: Request) -> Response:
        committer = self._committer
        found = {"committed": len(committer.committed), "sent": committer.sent, "done": committer.done, "error": committer.error}
        return JSONResponse({**found, "behind_seconds": round(committer.behind_seconds, 3)})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.endurance.counter", description=__doc__, epilog=EXAMPLE)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kafka", required=True, metavar="HOST:PORT")
    parser.add_argument("--topic", default="counter.sync_order")
    parser.add_argument("--orders", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=100.0, help="orders a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--delay-seconds-max", type=float, default=60.0)
    parser.add_argument("--report", type=Path, required=True, help="where to write what was committed, at the end")
    options = parser.parse_args()
    table = Table()
    producer = KafkaProducer(bootstrap_servers=options.kafka, acks="all", enable_idempotence=False, linger_ms=0, metrics_enabled=False)
    plan = statements(options.seed, options.orders, Channel(delay_seconds_max=options.delay_seconds_max))
    committer = Committer(table, plan, producer, options.topic, options.rate)
    pages = Pages(table, committer, Signatures({"counter": os.environ["COUNTER_KEY"]}, VALIDITY_MS), options.orders)

    @asynccontextmanager
    async def reporting(_: Starlette) -> Any:
        yield
        await asyncio.to_thread(options.report.write_text, json.dumps([asdict(order) for order in committer.committed]))

    app = Starlette(routes=pages.routes, lifespan=reporting)
    uvicorn.run(app, host="127.0.0.1", port=options.port, loop="asyncio", ws="none", log_config=None, access_log=False, timeout_keep_alive=75)


if __name__ == "__main__":
    main()
