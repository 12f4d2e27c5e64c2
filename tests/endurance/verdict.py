"""Compares what the counter committed with what the database holds. Pure, but for
reading the database.
"""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import psycopg2

CONTENTS: Final = (
    *("order_id", "user_id", "shard", "sequence", "contract_id", "direction"),
    *("asset", "quantity", "quoted_usdt", "instrument", "created_ms"),
)
SHOWN_MAX: Final = 10
_ORDERS: Final = f"""
    SELECT {", ".join(f"o.{name}" for name in CONTENTS)}, o.source, (extract(epoch FROM o.received_at) * 1000)::float8,
        (SELECT count(*) FROM clearing_clearing c WHERE c.order_id = o.id),
        (SELECT count(*) FROM clearing_operation p JOIN clearing_clearing c ON c.id = p.clearing_id WHERE c.order_id = o.id)
    FROM orders_syncorder o
"""  # noqa: S608 - names of ours
_QUEUED: Final = "SELECT count(*), coalesce(sum(sends), 0) FROM clearing_clearing WHERE state = 'queued'"

Contents = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class StoredOrder:
    """An order as the database holds it."""

    contents: Contents
    source: str
    received_ms: float
    clearings: int
    operations: int


@dataclass(frozen=True, slots=True)
class Latency:
    """From the counter's commit to ours, ms."""

    count: int = 0
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Latency":
        ordered = sorted(milliseconds)
        if not ordered:
            return cls()
        return cls(len(ordered), *(round(ordered[min(int(len(ordered) * share), len(ordered) - 1)], 1) for share in (0.5, 0.99, 1.0)))


@dataclass(slots=True)
class Comparison:
    """Orders by what is wrong with them, the first of each; and how long the others took, by how
    they came.
    """

    wrong: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=dict)
    dropped: Latency = Latency()  # never streamed: only gap compensation can have brought them
    streamed: Latency = Latency()  # neither lost nor delayed
    delayed: Latency = Latency()

    def complain(self, kind: str, order_id: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.wrong.setdefault(kind, [])
        if len(self.wrong[kind]) < SHOWN_MAX:
            self.wrong[kind].append(order_id)


def read_orders(database_url: str) -> dict[str, StoredOrder]:
    """Every order that the database holds, by its id, with its clearings."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(_ORDERS)
        width = len(CONTENTS)
        return {row[0]: StoredOrder(_canonical(row[:width]), *row[width:]) for row in cursor.fetchall()}


def queued(database_url: str) -> tuple[int, int]:
    """How many clearings wait for a worker, and how many messages the sweep sent again for them."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute(_QUEUED)
        (count, sends) = cursor.fetchone() or (0, 0)
        return int(count), int(sends)


def compare(committed: Sequence[dict[str, Any]], held: dict[str, StoredOrder]) -> Comparison:
    """Each committed order is held once, as it was committed, with one clearing and its first
    operation; nothing else is.
    """
    found = Comparison()
    took: dict[str, list[float]] = {"dropped": [], "streamed": [], "delayed": []}
    for order in committed:
        row = order["row"]
        ours = held.get(row["order_id"])
        if ours is None:
            found.complain("missing", row["order_id"])
            continue
        if ours.contents != _canonical([row[name] for name in CONTENTS]):
            found.complain("other contents", row["order_id"])
        if (ours.clearings, ours.operations) != (1, 1):
            found.complain("not one clearing with one operation", row["order_id"])
        found.sources[ours.source] = found.sources.get(ours.source, 0) + 1
        how = "dropped" if order["dropped"] else "delayed" if order["delayed"] else "streamed"
        took[how].append(ours.received_ms - order["committed_ms"])
    for order_id in held.keys() - {order["row"]["order_id"] for order in committed}:
        found.complain("extra", order_id)
    found.dropped, found.streamed, found.delayed = (Latency.of(took[how]) for how in ("dropped", "streamed", "delayed"))
    return found


def _canonical(values: Sequence[Any]) -> Contents:
    """Comparable whatever printed them: amounts by their value, whole numbers by their digits."""
    named = dict(zip(CONTENTS, values, strict=True))
    return tuple(Decimal(value).normalize() if name in {"quantity", "quoted_usdt"} else str(value) for name, value in named.items())
