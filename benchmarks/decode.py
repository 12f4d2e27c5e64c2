"""Rows a second of the decoder, for each format, beside `json.loads` and a naive loop in turn with
it.

The floor of a packet of Canal's, which isn't JSON, is that of the same rows as flat JSON. Times are
of CPU, the best of many short runs.
"""

import json
import time
from collections.abc import Callable
from typing import Any

from orders.decoding.decode import decode
from tests.orders import encodings
from tests.orders.messages import message, row
from tests.orders.packets import inserted, packet

ROWS_A_MESSAGE = 50
CALLS = 100
Side = Callable[[bytes], object]


def figures(rounds: int) -> dict[str, Any]:
    """Of each case ours, the floor's, and how many times the floor's time ours takes."""
    return {"figure": "decode", "rounds": rounds, "formats": {name: _case(*case, rounds) for name, case in _cases().items()}}


def lines(result: dict[str, Any]) -> list[str]:
    """The figures as text."""
    return [
        f"{name:>24}: {case['ours']:>9,.0f} rows/s, json.loads and a loop {case['floor']:>9,.0f}, takes {case['time_over_floor']:.2f} times as long"
        for name, case in result["formats"].items()
    ]


def _cases() -> dict[str, tuple[bytes, bytes, int]]:
    """Message, the floor's message, and rows in it."""
    rows = [row(f"O{number}", id=str(number), user_id=str(1_000 + number)) for number in range(ROWS_A_MESSAGE)]
    flat = message(*rows)
    single = {encode.__name__: encode() for encode in encodings.ENCODINGS}
    flat_single = single["canal_flat"]
    return {
        f"canal_flat, {ROWS_A_MESSAGE} rows": (flat, flat, ROWS_A_MESSAGE),
        f"canal_protobuf, {ROWS_A_MESSAGE} rows": (packet(inserted(*rows)), flat, ROWS_A_MESSAGE),
        **{name: (raw, raw if raw[:1] == b"{" else flat_single, 1) for name, raw in single.items()},
    }


def _case(raw: bytes, floors_raw: bytes, rows: int, rounds: int) -> dict[str, float]:
    sides: dict[str, tuple[Side, bytes]] = {"floor": (_naive, floors_raw), "ours": (decode, raw)}
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for side, (read, message_bytes) in sides.items():
            best[side] = min(best[side], _seconds(read, message_bytes))
    rates = {side: rows * CALLS / seconds for side, seconds in best.items()}
    return {**rates, "time_over_floor": best["ours"] / best["floor"]}


def _seconds(read: Side, raw: bytes) -> float:
    started = time.process_time()
    for _ in range(CALLS):
        read(raw)
    return time.process_time() - started


def _naive(raw: bytes) -> list[dict[str, Any]]:
    """The simplest decoder: no types, no checks, floats for amounts, labels as numbers."""
    message_fields = json.loads(raw)
    event = message_fields.get("payload", message_fields)
    rows = event.get("data") or event.get("after")
    return [{"table": event.get("table"), "operation": event.get("type"), "after": dict(row)} for row in (rows if isinstance(rows, list) else [rows])]
