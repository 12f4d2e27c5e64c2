"""SQL that stores orders and looks up stored ones. The caller opens the transactions."""

from collections.abc import Collection, Iterable, Mapping
from typing import Final, NamedTuple

from django.conf import settings
from django.db import connection

from orders.intake.classify import Arrival, Place, Suspect
from orders.intake.first_start import IS_STARTED, NotStarted
from orders.intake.mapping import NewOrder
from orders.models import Source

# Shared by transactions that store orders, exclusive for one that quarantines a message about an
# order that isn't stored: so one of the two sees the other's row.
ACCEPTING_LOCK: Final = 0x6F72646572735F69  # "orders_i"
EXCLUSIVE_MS_MAX: Final = "2000"  # to wait for the exclusive lock, or to hold it idle: all that accept orders wait meanwhile

FUTURE_MS_MAX: Final = 60_000  # beyond what clocks may be apart: an order with a later time is accepted when that time has come

# The lock is a statement of its own, so that the next one sees rows that were stored while it
# waited. Nothing is inserted before the first start, nor from the future (design, rule 15): both
# are decided here, by the database's clock, whatever way an order comes.
_INSERT = f"""
    SELECT pg_advisory_xact_lock_shared(%s);
    INSERT INTO orders_syncorder (order_id, user_id, shard, sequence, contract_id, direction, asset, quantity, quoted_usdt, instrument,
        created_ms, canonical_hash, kind, mac, mac_key_id, topic, partition, "offset", source)
    SELECT v.*, %s FROM unnest(%s::text[], %s::text[], %s::int[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::numeric[],
        %s::numeric[], %s::text[], %s::bigint[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::int[], %s::bigint[])
        AS v (order_id, user_id, shard, sequence, contract_id, direction, asset, quantity, quoted_usdt, instrument, created_ms)
    WHERE NOT EXISTS (SELECT FROM orders_syncorder o WHERE o.order_id = v.order_id)
        AND v.created_ms <= (SELECT (extract(epoch FROM service_now()) * 1000)::bigint) + %s AND (SELECT {IS_STARTED})
    ORDER BY v.order_id ON CONFLICT (order_id) DO NOTHING
    RETURNING id, order_id, EXISTS (SELECT FROM orders_quarantined q WHERE q.order_id = orders_syncorder.order_id AND q.replayed_at IS NULL)
"""  # noqa: S608
_HASHES = "SELECT order_id, canonical_hash FROM orders_syncorder WHERE order_id = ANY (%s)"
_PLACES = """
    SELECT order_id, topic, partition, "offset", (extract(epoch FROM received_at) * 1000)::bigint FROM orders_syncorder WHERE order_id = ANY (%s)
"""
_GATE = f"SELECT {IS_STARTED}, (extract(epoch FROM service_now()) * 1000)::bigint"  # noqa: S608
_NEWEST = "SELECT shard, newest_ms FROM orders_watermark WHERE shard = ANY (%s)"
_RAISE_NEWEST = """
    INSERT INTO orders_watermark (shard, newest_ms, scanned_through_ms, found_by_gap)
    SELECT v.shard, v.newest_ms, 0, 0 FROM unnest(%s::int[], %s::bigint[]) AS v (shard, newest_ms) ORDER BY v.shard
    ON CONFLICT (shard) DO UPDATE SET newest_ms = EXCLUDED.newest_ms WHERE orders_watermark.newest_ms < EXCLUDED.newest_ms
"""


class Hashed(NamedTuple):
    """An arrival with its order's canonical hash."""

    arrival: Arrival
    order_hash: str

    @property
    def order_id(self) -> str:
        return self.arrival.order.order_id


class Inserted(NamedTuple):
    """A new row's primary key, and whether a quarantined message names its order."""

    pk: int
    in_quarantine: bool


def insert(orders: Iterable[Hashed], source: Source) -> dict[str, Inserted]:
    """Inserts the orders that aren't stored, sorted by id. Returns the new rows by order id. What
    is neither among them nor stored was left out: `accepted_through_ms` tells why.
    """
    rows = [
        (
            *(order.order_id, order.user_id, order.shard, order.sequence, order.contract_id, order.direction, order.asset),
            *(order.quantity, order.quoted_usdt, order.instrument, order.created_ms, order_hash),
            *(order.kind, order.mac, order.mac_key_id, *arrival.origin.place),
        )
        for arrival, order_hash in orders
        for order in (arrival.order,)
    ]
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [ACCEPTING_LOCK, source.value, *map(list, zip(*rows, strict=True)), _future_ms_max()])
        return {order_id: Inserted(pk, in_quarantine) for pk, order_id, in_quarantine in cursor.fetchall()}


def accepted_through_ms() -> int:
    """Up to which time of creation orders are accepted now (milliseconds since the epoch). Raises
    NotStarted.
    """
    with connection.cursor() as cursor:
        cursor.execute(_GATE)
        started, now_ms = cursor.fetchone()
    if not started:
        raise NotStarted
    return int(now_ms) + _future_ms_max()


def _future_ms_max() -> int:
    return int(settings.CLOCK_SKEW_SECONDS_MAX * 1000) + FUTURE_MS_MAX


def stored_hashes(order_ids: Collection[str]) -> dict[str, str]:
    """The canonical hashes of the stored ones among the orders, by order id."""
    if not order_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_HASHES, [sorted(order_ids)])
        return dict(cursor.fetchall())


def stored_places(order_ids: Collection[str]) -> dict[str, tuple[Place, int]]:
    """Of the stored ones among the orders: where they came from, and when they were stored
    (milliseconds since the epoch).
    """
    if not order_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_PLACES, [sorted(order_ids)])
        return {order_id: ((topic, partition, offset), at_ms) for order_id, topic, partition, offset, at_ms in cursor.fetchall()}


def lock_out_inserts() -> None:
    """Waits until the transactions that are storing orders have ended, and blocks new ones until
    the end of this transaction.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('lock_timeout', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)", [EXCLUSIVE_MS_MAX] * 2
        )
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ACCEPTING_LOCK])


def raise_watermarks(accepted: Iterable[NewOrder]) -> None:
    """Raises `newest_ms` of the orders' shards. To be the last statement before the commit; only
    the shards that change are locked, as briefly as possible.
    """
    newest: dict[int, int] = {}
    for order in accepted:
        newest[order.shard] = max(order.created_ms, newest.get(order.shard, 0))
    with connection.cursor() as cursor:
        cursor.execute(_NEWEST, [list(newest)])
        known: dict[int, int] = dict(cursor.fetchall())
        moved = {shard: at_ms for shard, at_ms in newest.items() if at_ms > known.get(shard, -1)}
        if moved:
            cursor.execute(_RAISE_NEWEST, [list(moved), list(moved.values())])


def concerns_accepted(suspect: Suspect, places: Mapping[str, tuple[Place, int]]) -> bool:
    """Whether it refers to an accepted order, by what `stored_places` found, and isn't known to be
    older than the version that we accepted.
    """
    if suspect.order_id not in places:
        return False
    place, at_ms = places[suspect.order_id]
    return not suspect.origin.is_before(place, at_ms + int(settings.CLOCK_SKEW_SECONDS_MAX * 1000))
