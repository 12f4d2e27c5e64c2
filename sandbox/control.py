"""The sandbox's own pages, unsigned: faults, and what the audit reads. Long reads run on a thread,
each in one snapshot of the database.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from sqlite3 import Connection, Row
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.endpoints import integer
from sandbox.faults import FaultBoard, FaultRequest
from sandbox.problems import Answer, Problem, ok
from sandbox.requests import decode
from sandbox.storage import Storage

PAGE_ROWS = 500
PAGE_ROWS_MAX = 5_000


def respond(answer: Answer) -> Response:
    return Response(answer.body, answer.status, media_type=answer.content_type.decode())


class FaultPages:
    """Setting, listing and deleting faults; on the event loop, where the board lives."""

    def __init__(self, board: FaultBoard) -> None:
        self._board = board
        self.routes = [
            Route("/sandbox/faults", self.add, methods=["POST"]),
            Route("/sandbox/faults", self.list, methods=["GET"]),
            Route("/sandbox/faults", self.remove, methods=["DELETE"]),
            Route("/sandbox/faults/{fault_id}", self.remove, methods=["DELETE"]),
        ]

    async def add(self, request: Request) -> Response:
        fault = self._board.add(decode(await request.body(), FaultRequest))
        return respond(ok({"id": fault.id}, status=201))

    async def list(self, request: Request) -> Response:
        return respond(ok({"faults": self._board.as_json()}))

    async def remove(self, request: Request) -> Response:
        fault_id = request.path_params.get("fault_id")
        removed = self._board.remove(fault_id)
        if fault_id is not None and not removed:
            raise Problem(404, "unknown_fault", f"there is no fault {fault_id}: it was deleted, or its count is used up")
        return respond(ok({"removed": removed}))


class AuditPages:
    """What was placed, what was applied, and what the ledger says."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.routes = [
            Route("/sandbox/orders", self.orders, methods=["GET"]),
            Route("/sandbox/operations", self.operations, methods=["GET"]),
            Route("/sandbox/ledger", self.ledger, methods=["GET"]),
            Route("/sandbox/residues", self.residues, methods=["GET"]),
            Route("/sandbox/balance", self.balance, methods=["GET"]),
        ]

    def orders(self, request: Request) -> Response:
        after_id, limit = _position(request)
        with self._storage.snapshot() as reader:
            found = reader.execute("SELECT * FROM placed_order WHERE id > ? ORDER BY id LIMIT ?", (after_id, limit))
            rows = [dict(row) | {"id": str(row["id"]), "sequence": str(row["sequence"])} for row in found]
        return _page(rows, limit)

    def operations(self, request: Request) -> Response:
        after_id, limit = _position(request)
        with self._storage.snapshot() as reader:
            found = reader.execute(
                "SELECT effect.*, placed_order.user_id FROM effect LEFT JOIN placed_order USING (order_id)"
                " WHERE effect.id > ? ORDER BY effect.id LIMIT ?",
                (after_id, limit),
            )
            rows = [_effect(row) for row in found]
        return _page(rows, limit)

    def ledger(self, request: Request) -> Response:
        order_id = request.query_params.get("order_id")
        if not order_id:
            raise Problem(400, "invalid_request", "name the order: /sandbox/ledger?order_id=…")
        with self._storage.snapshot() as reader:
            found = reader.execute("SELECT account, asset, amount, key, at_ms FROM posting WHERE order_id = ? ORDER BY id", (order_id,))
            return respond(ok({"postings": [dict(row) for row in found]}))

    def residues(self, request: Request) -> Response:
        after, limit = request.query_params.get("after", ""), _limit(request)
        with self._storage.snapshot() as reader:
            orders = _orders_after(reader, after, limit)
            sums = _sums(reader, [order["order_id"] for order in orders])
        rows = [_residue(order, sums[order["order_id"]]) for order in orders]
        return respond(ok({"rows": rows, "next": rows[-1]["order_id"] if len(rows) == limit else None}))

    def balance(self, request: Request) -> Response:
        """Sums every posting there is, so that a balance that was moved without one would show."""
        sums: dict[str, Decimal] = defaultdict(Decimal)
        with self._storage.snapshot() as reader:
            postings = _totals(reader.execute("SELECT account, asset, amount FROM posting"))
            balances = {(row["account"], row["asset"]): Decimal(row["amount"]) for row in reader.execute("SELECT * FROM balance")}
        for (_, asset), amount in postings.items():
            sums[asset] += amount
        balanced = not any(sums.values()) and dict(postings) == balances
        return respond(ok({"balanced": balanced, "sums": {asset: _plain(amount) for asset, amount in sums.items()}}))


async def healthz(_: Request) -> Response:
    return respond(ok({"status": "ok"}))


def _limit(request: Request) -> int:
    return integer(dict(request.query_params), "limit", default=PAGE_ROWS, least=1, most=PAGE_ROWS_MAX)


def _position(request: Request) -> tuple[int, int]:
    return integer(dict(request.query_params), "after_id", default=0), _limit(request)


def _page(rows: list[dict[str, Any]], limit: int) -> Response:
    return respond(ok({"rows": rows, "next": rows[-1]["id"] if len(rows) == limit else None}))


def _effect(row: Row) -> dict[str, Any]:
    plain = dict(row)
    return plain | {"id": str(row["id"]), "request": msgspec.Raw(row["request"]), "result": msgspec.Raw(row["result"])}


def _orders_after(reader: Connection, after: str, limit: int) -> list[Row]:
    return reader.execute(
        "SELECT order_id, direction FROM placed_order WHERE id > coalesce((SELECT id FROM placed_order WHERE order_id = ?), 0) ORDER BY id LIMIT ?",
        (after, limit),
    ).fetchall()


def _sums(reader: Connection, order_ids: list[str]) -> dict[str, dict[tuple[str, str], Decimal]]:
    """The postings' sums by order, account and asset."""
    sums: dict[str, dict[tuple[str, str], Decimal]] = {order_id: {} for order_id in order_ids}
    names = msgspec.json.encode(order_ids).decode()
    sql = "SELECT order_id, account, asset, amount FROM posting WHERE order_id IN (SELECT value FROM json_each(?))"
    for row in reader.execute(sql, (names,)):
        of_order, place = sums[row["order_id"]], (row["account"], row["asset"])
        of_order[place] = of_order.get(place, Decimal(0)) + Decimal(row["amount"])
    return sums


def _totals(postings: Iterable[Row]) -> Mapping[tuple[str, str], Decimal]:
    totals: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for account, asset, amount in postings:
        totals[account, asset] += Decimal(amount)
    return totals


def _residue(order: Row, sums: dict[tuple[str, str], Decimal]) -> dict[str, Any]:
    residue = {f"{account}|{asset}": _plain(amount) for (account, asset), amount in sorted(sums.items()) if amount}
    return {"order_id": order["order_id"], "direction": order["direction"], "residue": residue}


def _plain(amount: Decimal) -> str:
    """As base.decimals.plain; the sandbox stands for services of other people and shares no code
    with ours, so that the audit compares two independent writings.
    """
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
