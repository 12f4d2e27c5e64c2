"""Where messages that can't be read or aren't trusted are kept whole."""

from collections.abc import Collection, Sequence

from django.db import connection
from psycopg2.extras import execute_values

from orders.arrivals import Bad
from orders.models import Quarantined, Source

DETAIL_LENGTH_MAX = 500

_INSERT = """
    INSERT INTO orders_quarantined (topic, partition, "offset", message_hash, message, source, reason, detail, order_id)
    VALUES %s ON CONFLICT (topic, partition, "offset", message_hash, order_id) DO NOTHING RETURNING topic, partition, "offset", order_id
"""


def quarantine(found: Sequence[Bad], source: Source) -> list[Bad]:
    """Stores each, in the open transaction or one of its own. Returns those that weren't there yet; the same message again adds nothing."""
    if not found:
        return []
    first = {(*bad.origin.place, bad.order_id): bad for bad in reversed(found)}
    with connection.cursor() as cursor:
        rows = execute_values(cursor, _INSERT, [_values(first[key], source) for key in sorted(first)], page_size=len(first), fetch=True)
    return [first[row] for row in rows]


def put_away_before(reason: str, order_ids: Collection[str]) -> set[str]:
    """Those of the orders that lie in quarantine for this reason already, from wherever."""
    if not order_ids:
        return set()
    return set(Quarantined.objects.filter(reason=reason, order_id__in=sorted(order_ids)).values_list("order_id", flat=True))


def _values(bad: Bad, source: Source) -> tuple[object, ...]:
    origin = bad.origin
    return (*origin.place, origin.message_hash, origin.message, source.value, bad.reason, _storable(bad.detail), bad.order_id)


def _storable(detail: str) -> str:
    """As PostgreSQL takes it: without NULs and lone surrogates, which may be just what was wrong with the row."""
    return detail[:DETAIL_LENGTH_MAX].replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()
