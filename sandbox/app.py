"""The sandbox's parts put together, and its ASGI application."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox import ledger
from sandbox.channel import Channel
from sandbox.config import BINLOG_RETENTION_MS, KEY_RETENTION_MS, SandboxConfig
from sandbox.control import AuditPages, FaultPages, healthz, respond
from sandbox.counter import Counter
from sandbox.endpoints import Gate, Mutation, Question, UserCall, integer, key_in, parameters
from sandbox.faults import FaultBoard
from sandbox.fund import Fund
from sandbox.market import Market
from sandbox.money import text
from sandbox.operations import Effect, Operations
from sandbox.placing import BatchRequest, Desk, MiscRequest, QuoteRequest, UserOrderRequest
from sandbox.problems import Answer, Problem, ok
from sandbox.publisher import Publisher
from sandbox.requests import decode
from sandbox.storage import Storage
from sandbox.synctable import PAGE_ROWS_MAX, SHARDS, SyncTable
from sandbox.trading import Trading

log = logging.getLogger(__name__)
PURGE_SECONDS = 3600
WINDOW_MS_MAX = 24 * 3600 * 1000  # of counts by minute


class Anything(Convertor[str]):
    """The rest of a path, line breaks included: a key that nobody could use is still asked for."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", Anything())


class Parts:
    """One sandbox: its database, its three services, and what goes on around them."""

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.now_ms = config.clock_ms
        self.storage = Storage(config.database)
        self.publisher = Publisher(self.storage, config) if config.kafka_bootstrap else None
        self.table = SyncTable(self.storage, self._committed, config.proof)
        self.market = Market(seed=config.seed, volatility_bps=config.volatility_bps, now_ms=self.now_ms())
        self.fund = Fund(self.storage, self.market)
        # The counter asks the fund service by the function that answers its price endpoint: the two
        # share this process.
        self.board = FaultBoard(seed=config.seed)
        self.desk = Desk(self.storage, self.table, self.fund.price, config.spread_bps, self._placing_fault)
        self.effects: dict[str, Effect] = {
            "counter": Counter(self.storage, self.table),
            "fund": self.fund,
            "trading": Trading(self.storage, self.market),
        }
        self.operations = Operations(self.storage, self.effects, self.now_ms, self._later)
        self.stopping = asyncio.Event()
        with self.storage.transaction():
            ledger.open_books(self.storage, self.now_ms())
            self.table.create(self.now_ms())

    def start(self) -> None:
        """Takes up what a killed sandbox left: unpublished changes, and calls that were in
        progress.
        """
        if self.publisher is not None:
            self.publisher.start()
        self.operations.complete_due()

    def stop(self) -> None:
        if self.publisher is not None:
            self.publisher.stop()
        self.storage.close()

    def purge(self) -> None:
        """Drops keys past their retention, and published changes nobody will ask for."""
        with self.storage.transaction():
            keys = self.storage.purge_keys(self.now_ms() - KEY_RETENTION_MS)
            changes = self.storage.purge_changes(self.now_ms() - BINLOG_RETENTION_MS)
        log.info("purged %d idempotency keys and %d published changes", keys, changes)

    def _placing_fault(self, order_id: str) -> str:
        fault = self.board.pick("counter", "place", order_id)
        return fault.kind if fault else ""

    def _committed(self) -> None:
        if self.publisher is not None:
            self.publisher.wake()

    def _later(self, milliseconds: int) -> None:
        asyncio.get_running_loop().call_later(milliseconds / 1000 + 0.001, self.operations.complete_due)


class SandboxApp(Starlette):
    """Starlette with a shortcut: routes without parameters are looked up in a dict before the
    router is asked.
    """

    def __init__(self, parts: Parts) -> None:
        routes = _routes(parts)
        self.parts = parts
        self._direct: dict[tuple[str, str], ASGIApp] = {
            (method, route.path): route.endpoint
            for route in routes
            if isinstance(route.endpoint, (Mutation, Question, UserCall)) and not route.param_convertors
            for method in route.methods or ()
        }
        super().__init__(routes=routes, lifespan=_lifespan, exception_handlers={Problem: _on_problem, HTTPException: _on_http_error})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = self._direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (super().__call__ if direct is None else direct)(scope, receive, send)


def build_app(config: SandboxConfig) -> SandboxApp:
    """A sandbox as an ASGI application; its database is opened here, its publisher starts and stops
    with the lifespan.
    """
    return SandboxApp(Parts(config))


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    assert isinstance(app, SandboxApp)
    app.parts.start()
    purging = asyncio.create_task(_purge_now_and_then(app.parts))
    try:
        yield
    finally:
        purging.cancel()
        with suppress(asyncio.CancelledError):
            await purging
        app.parts.stop()


async def _purge_now_and_then(parts: Parts) -> None:
    while True:
        parts.purge()
        await asyncio.sleep(PURGE_SECONDS)


def _routes(parts: Parts) -> list[Route]:
    gate = Gate(parts.config, parts.board, parts.operations, parts.stopping)
    return [*_counter_routes(parts, gate), *_fund_routes(parts, gate), *_trading_routes(parts, gate), *_own_routes(parts)]


def _counter_routes(parts: Parts, gate: Gate) -> list[Route]:
    return [
        Route("/counter/v1/adjustments", Mutation(gate, "counter", "adjust"), methods=["POST"]),
        *(
            Route(f"/counter/v1/{path}", Question(gate, "counter", operation, partial(read, parts)), methods=["GET"])
            for path, (operation, read) in _COUNTER_QUESTIONS.items()
        ),
        _status_route(parts, gate, "counter"),
        *_user_routes(parts, gate),
    ]


def _user_routes(parts: Parts, gate: Gate) -> list[Route]:
    calls: dict[str, Callable[[Parts, bytes], Answer]] = {
        "quotes": _quote,
        "orders": _place,
        "orders/batch": _place_batch,
        "misc-orders": _place_misc,
    }
    return [Route(f"/counter/v1/{path}", UserCall(gate, partial(write, parts)), methods=["POST"]) for path, write in calls.items()]


def _fund_routes(parts: Parts, gate: Gate) -> list[Route]:
    return [
        Route("/fund/v1/transfers", Mutation(gate, "fund", "transfer"), methods=["POST"]),
        Route("/fund/v1/prices", Question(gate, "fund", "prices", lambda channel: _price(parts, channel)), methods=["GET"]),
        _status_route(parts, gate, "fund"),
    ]


def _trading_routes(parts: Parts, gate: Gate) -> list[Route]:
    return [
        Route("/trading/v1/exchanges", Mutation(gate, "trading", "exchange"), methods=["POST"]),
        _status_route(parts, gate, "trading"),
    ]


def _own_routes(parts: Parts) -> list[Route]:
    return [Route("/healthz", healthz, methods=["GET"]), *FaultPages(parts.board).routes, *AuditPages(parts.storage).routes]


def _status_route(parts: Parts, gate: Gate, counterparty: str) -> Route:
    def read(channel: Channel) -> Answer:
        return parts.operations.status(counterparty, key_in(channel))

    return Route(f"/{counterparty}/v1/operations/{{key:anything}}", Question(gate, counterparty, "status", read), methods=["GET"])


def _shards(parts: Parts, _: Channel) -> Answer:
    return ok({"shards": SHARDS, "now_ms": parts.now_ms()})


def _rows(page: Callable[[Parts], Callable[[int, int, int, int], list[dict[str, Any]]]], parts: Parts, channel: Channel) -> Answer:
    """A page of one of the counter's two tables."""
    given = parameters(channel)
    shard = integer(given, "shard", most=SHARDS[-1])
    after = integer(given, "after_ms", default=0), integer(given, "after_id", default=0)
    limit = integer(given, "limit", default=PAGE_ROWS_MAX, least=1, most=PAGE_ROWS_MAX)
    now_ms = parts.now_ms()
    rows = page(parts)(shard, *after, limit)
    following = {"ms": rows[-1]["created_ms"], "id": rows[-1]["id"]} if len(rows) == limit else None
    return ok({"shard": shard, "now_ms": now_ms, "rows": rows, "next": following})


def _counts(count: Callable[[Parts], Callable[[int, int, int], list[dict[str, Any]]]], parts: Parts, channel: Channel) -> Answer:
    """Rows by minute of one of the counter's two tables."""
    given = parameters(channel)
    shard, from_ms = integer(given, "shard", most=SHARDS[-1]), integer(given, "from_ms")
    to_ms = integer(given, "to_ms", least=from_ms, most=from_ms + WINDOW_MS_MAX)
    return ok({"shard": shard, "now_ms": parts.now_ms(), "minutes": count(parts)(shard, from_ms, to_ms)})


# path → the operation by which faults name it, and what answers it
_COUNTER_QUESTIONS: dict[str, tuple[str, Callable[[Parts, Channel], Answer]]] = {
    "shards": ("sync_orders", _shards),
    "sync-orders": ("sync_orders", partial(_rows, lambda parts: parts.table.page)),
    "sync-orders/counts": ("sync_orders", partial(_counts, lambda parts: parts.table.counts)),
    "orders": ("orders", partial(_rows, lambda parts: parts.desk.orders_page)),
    "orders/counts": ("orders", partial(_counts, lambda parts: parts.desk.order_counts)),
}


def _price(parts: Parts, channel: Channel) -> Answer:
    now_ms, asset = parts.now_ms(), parameters(channel).get("asset", "")
    return ok({"asset": asset, "price": text(parts.fund.price(asset, now_ms)), "at_ms": now_ms})


def _quote(parts: Parts, raw: bytes) -> Answer:
    return ok(parts.desk.quote(decode(raw, QuoteRequest), parts.now_ms()))


def _place(parts: Parts, raw: bytes) -> Answer:
    request = decode(raw, UserOrderRequest)
    return ok(parts.desk.place(request.user_id, [request], parts.now_ms())[0], status=201)


def _place_batch(parts: Parts, raw: bytes) -> Answer:
    request = decode(raw, BatchRequest)
    return ok({"orders": parts.desk.place(request.user_id, request.orders, parts.now_ms())}, status=201)


def _place_misc(parts: Parts, raw: bytes) -> Answer:
    return ok(parts.desk.place_misc(decode(raw, MiscRequest), parts.now_ms()), status=201)


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return respond(error.answer())


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    response = respond(Problem(error.status_code, codes.get(error.status_code, "http_error"), error.detail).answer())
    response.headers.update(error.headers or {})
    return response
