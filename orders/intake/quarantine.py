"""Where messages that can't be read or aren't trusted are kept whole."""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from django.db import connection
from psycopg2.extras import execute_values

from orders.intake.classify import CONTENTS_DIFFER, DELETED, DELETED_UNKNOWN, Bad
from orders.models import Quarantined, Source

DETAIL_LENGTH_MAX = 500
HOLDING: Final = (CONTENTS_DIFFER, DELETED)  # under these an order was held when the message was put here

_INSERT = """
    INSERT INTO orders_quarantined (topic, partition, "offset", message_hash, message, source, reason, detail, order_id, contents_hash)
    VALUES %s ON CONFLICT (topic, partition, "offset", message_hash, order_id)
"""
_KEY = 'RETURNING topic, partition, "offset", message_hash, order_id'
_ONCE = f"{_INSERT} DO NOTHING {_KEY}"
# What lies here from before its order was accepted, under a reason that held nothing, is from now
# on what the order is held for.
_UNLESS_HELD = """
    DO UPDATE SET reason = EXCLUDED.reason, detail = EXCLUDED.detail, contents_hash = EXCLUDED.contents_hash, replayed_at = NULL
    WHERE orders_quarantined.reason NOT IN ('contents_differ', 'deleted_at_counter')
"""
_ONCE_HELD = f"{_INSERT} {_UNLESS_HELD} {_KEY}"
_HELD_BEFORE = """
    SELECT EXISTS (SELECT FROM orders_quarantined
        WHERE order_id = %s AND contents_hash = %s AND contents_hash <> '' AND reason = ANY (%s) AND replayed_at IS NULL)
"""
# What lies here of orders that were just stored and tells otherwise of them. A deletion does,
# unless the order was written after it; contents do where they were written after those that were
# accepted. What was written first is only known within a partition.
_CONTRADICTED = """
    UPDATE orders_quarantined q
    SET reason = CASE WHEN q.reason = ANY (%(deletions)s) THEN %(deleted)s ELSE %(differs)s END
    FROM orders_syncorder o
    WHERE q.order_id = ANY (%(order_ids)s) AND q.replayed_at IS NULL AND o.order_id = q.order_id
        AND CASE
            WHEN q.topic = o.topic AND q.partition = o.partition THEN q."offset" > o."offset" AND q.contents_hash <> o.canonical_hash
            ELSE q.reason = ANY (%(deletions)s)
        END
    RETURNING q.order_id, q.reason
"""


class Kept(NamedTuple):
    """Whether a message is new here, and whether its order is to be held for it."""

    new: bool
    holds: bool


def quarantine(found: Sequence[Bad], source: Source) -> list[Bad]:
    """Stores each, in the open transaction or one of its own. Returns those that weren't there yet;
    the same message again adds nothing.
    """
    if not found:
        return []
    first = {_key(bad): bad for bad in reversed(found)}
    with connection.cursor() as cursor:
        rows = execute_values(cursor, _ONCE, [_values(first[key], source) for key in sorted(first)], page_size=len(first), fetch=True)
    return [first[row] for row in rows]


def quarantine_contradiction(bad: Bad, source: Source) -> Kept:
    """Stores, in the open transaction, a message that tells otherwise of an accepted order.

    The order is held for it unless it was held for the same message before, or for the same
    contents: a hold that stands needn't be set again, and one that a person has released was
    released for these very contents.
    """
    with connection.cursor() as cursor:
        cursor.execute(_HELD_BEFORE, [bad.order_id, bad.contents_hash, list(HOLDING)])
        (held_before,) = cursor.fetchone()
        new = bool(execute_values(cursor, _ONCE_HELD, [_values(bad, source)], fetch=True))
    return Kept(new, holds=new and not held_before)


def contradicted_orders(order_ids: Collection[str]) -> dict[str, str]:
    """Of the orders, stored in this transaction, those that a quarantined message tells otherwise
    of, with the code to hold each under.

    The messages get that code for their reason, since the order is held for them from now on.
    """
    with connection.cursor() as cursor:
        codes: dict[str, str | list[str]] = {"deletions": [DELETED_UNKNOWN, DELETED], "deleted": DELETED, "differs": CONTENTS_DIFFER}
        cursor.execute(_CONTRADICTED, {**codes, "order_ids": sorted(order_ids)})
        return dict(sorted(cursor.fetchall()))  # of both codes the one of the deletion


def already_quarantined(reason: str, order_ids: Collection[str]) -> set[str]:
    """Those of the orders that lie in quarantine for this reason already, from wherever."""
    if not order_ids:
        return set()
    return set(Quarantined.objects.filter(reason=reason, order_id__in=sorted(order_ids)).values_list("order_id", flat=True))


def _key(bad: Bad) -> tuple[str, int, int, str, str]:
    return (*bad.origin.place, bad.origin.message_hash, bad.order_id)


def _values(bad: Bad, source: Source) -> tuple[object, ...]:
    origin = bad.origin
    place_and_message = (*origin.place, origin.message_hash, origin.message)
    return (*place_and_message, source.value, bad.reason, _storable(bad.detail), bad.order_id, bad.contents_hash)


def _storable(detail: str) -> str:
    """As PostgreSQL takes it: without NULs and lone surrogates, which may be just what was wrong
    with the row.
    """
    return detail[:DETAIL_LENGTH_MAX].replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()
