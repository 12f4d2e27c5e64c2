"""Quarantine: stores messages that can't be read or aren't trusted, unabridged.

A message with one row lies in the row of its order, as it came. One with several lies in a table of
its own, once; the row of an order has the order's own row then, as a message of Canal's, which the
release before reads as well.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from django.db import connection
from psycopg2.extras import execute_values

from orders.intake.classify import CONTENTS_DIFFER, DELETED, DELETED_UNKNOWN, EARLY, NOT_AUTHENTIC, Bad
from orders.models import Quarantined, Source

DETAIL_LENGTH_MAX = 500
HOLDING: Final = (CONTENTS_DIFFER, DELETED)  # messages under these codes have put their order on hold

_INSERT = """
    INSERT INTO orders_quarantined (topic, partition, "offset", message_hash, message, source, reason, detail, order_id, contents_hash)
    VALUES %s ON CONFLICT (topic, partition, "offset", message_hash, order_id)
"""
_KEY = 'RETURNING topic, partition, "offset", message_hash, order_id'
_ONCE = f"{_INSERT} DO NOTHING {_KEY}"
# A message that was quarantined before its order was accepted, under a reason that puts nothing on
# hold, becomes the cause of the order's hold.
_UNLESS_HELD = """
    DO UPDATE SET reason = EXCLUDED.reason, detail = EXCLUDED.detail, contents_hash = EXCLUDED.contents_hash, replayed_at = NULL
    WHERE orders_quarantined.reason NOT IN ('contents_differ', 'deleted_at_counter')
"""
_ONCE_HELD = f"{_INSERT} {_UNLESS_HELD} {_KEY}"
_HELD_BEFORE = """
    SELECT EXISTS (SELECT FROM orders_quarantined
        WHERE order_id = %s AND contents_hash = %s AND contents_hash <> '' AND reason = ANY (%s) AND replayed_at IS NULL)
"""
_KEPT = "SELECT message_hash FROM orders_quarantinedmessage WHERE message_hash = ANY (%s)"
_KEEP = "INSERT INTO orders_quarantinedmessage (message_hash, message) VALUES %s ON CONFLICT DO NOTHING"
_HELD_ALREADY = """
    SELECT q.topic, q.partition, q."offset", q.message_hash, q.order_id FROM orders_quarantined q
    JOIN unnest(%s::text[], %s::int[], %s::bigint[], %s::text[], %s::text[]) AS v (topic, partition, "offset", message_hash, order_id)
        USING (topic, partition, "offset", message_hash, order_id)
    WHERE q.reason IN ('contents_differ', 'deleted_at_counter')
"""
# Quarantined messages that contradict an order that was just stored. A deletion does, unless the
# order was written after it; other contents do if they were written after the accepted ones. Which
# was written first is known only within a partition.
# A few of each kind hold the order: a flood of messages about one order mustn't make its acceptance
# longer than a statement may take.
_CONTRADICTED = """
    UPDATE orders_quarantined q
    SET reason = CASE WHEN q.reason = ANY (%(deletions)s) THEN %(deleted)s ELSE %(differs)s END
    FROM orders_syncorder o CROSS JOIN (VALUES (true), (false)) AS kind (is_deletion) CROSS JOIN LATERAL (
        SELECT c.id FROM orders_quarantined c
        WHERE c.order_id = o.order_id AND c.replayed_at IS NULL AND c.reason <> %(not_authentic)s
            AND (c.reason = ANY (%(deletions)s)) = kind.is_deletion
            AND CASE
                WHEN c.topic = o.topic AND c.partition = o.partition THEN c."offset" > o."offset" AND c.contents_hash <> o.canonical_hash
                ELSE kind.is_deletion
            END
        LIMIT %(rows_max)s
    ) AS causes
    WHERE o.order_id = ANY (%(order_ids)s) AND q.id = causes.id
    RETURNING q.order_id, q.reason
"""
# What was refused until its time is in by now.
_EARLY_IS_IN = """
    UPDATE orders_quarantined q SET replayed_at = service_now() FROM orders_syncorder o
    WHERE q.order_id = ANY (%s) AND q.reason = %s AND q.replayed_at IS NULL AND o.order_id = q.order_id AND q.contents_hash = o.canonical_hash
"""
CAUSES_MAX: Final = 50


class Outcome(NamedTuple):
    """Whether the message is new in the quarantine, and whether it puts its order on hold."""

    new: bool
    holds: bool


def quarantine(bad_messages: Sequence[Bad], source: Source) -> list[Bad]:
    """Stores each message, in the open transaction or one of its own. Returns the new ones; the
    same message again adds nothing.
    """
    if not bad_messages:
        return []
    first = {_key(bad): bad for bad in reversed(bad_messages)}
    _keep_whole(first.values())
    with connection.cursor() as cursor:
        rows = execute_values(cursor, _ONCE, [_values(first[key], source) for key in sorted(first)], page_size=len(first), fetch=True)
    return [first[row] for row in rows]


def quarantine_contradiction(bad: Bad, source: Source) -> Outcome:
    """Stores, in the open transaction, a message that contradicts an accepted order.

    It puts the order on hold, unless the same message or the same contents did so before: an active
    hold needn't be set again, and if an operator has released the hold, it was for these very
    contents.
    """
    _keep_whole([bad])
    with connection.cursor() as cursor:
        cursor.execute(_HELD_BEFORE, [bad.order_id, bad.contents_hash, list(HOLDING)])
        (held_before,) = cursor.fetchone()
        new = bool(execute_values(cursor, _ONCE_HELD, [_values(bad, source)], fetch=True))
    return Outcome(new, holds=new and not held_before)


def contradicted_orders(order_ids: Collection[str]) -> dict[str, str]:
    """Returns the orders, among those stored in this transaction, that contradict an already
    quarantined message, mapped to the hold code.

    The messages get that code as their reason, since they are now the cause of a hold. Messages
    that tell the same and came before their time are done with.
    """
    with connection.cursor() as cursor:
        cursor.execute(_EARLY_IS_IN, [sorted(order_ids), EARLY])
        codes: dict[str, str | list[str]] = {"deletions": [DELETED_UNKNOWN, DELETED], "deleted": DELETED, "differs": CONTENTS_DIFFER}
        codes["not_authentic"] = NOT_AUTHENTIC
        cursor.execute(_CONTRADICTED, {**codes, "order_ids": sorted(order_ids), "rows_max": CAUSES_MAX})
        return dict(sorted(cursor.fetchall()))  # the deletion's code wins over contents_differ


def held_already(bad_messages: Sequence[Bad]) -> set[int]:
    """Those of the messages (their `id`) that are in quarantine as the cause of a hold."""
    keys = {_key(bad): id(bad) for bad in bad_messages}
    with connection.cursor() as cursor:
        cursor.execute(_HELD_ALREADY, list(map(list, zip(*keys, strict=True))))
        found = set(cursor.fetchall())
    return {id(bad) for bad in bad_messages if _key(bad) in found}


def already_quarantined(reason: str, order_ids: Collection[str]) -> set[str]:
    """Those of the orders that a message in quarantine names under this reason, from any source."""
    if not order_ids:
        return set()
    return set(Quarantined.objects.filter(reason=reason, order_id__in=sorted(order_ids)).values_list("order_id", flat=True))


def _keep_whole(bad_messages: Iterable[Bad]) -> None:
    """Stores each message that has several rows, unless it is stored already."""
    whole = {bad.origin.message_hash: bad.origin.message for bad in bad_messages if _own_row(bad) is not None}
    if not whole:
        return
    with connection.cursor() as cursor:
        cursor.execute(_KEPT, [list(whole)])
        for (message_hash,) in cursor.fetchall():
            del whole[message_hash]
        if whole:
            execute_values(cursor, _KEEP, sorted(whole.items()))


def _own_row(bad: Bad) -> bytes | None:
    """Rows that name no order share one place in the quarantine: there the whole message lies."""
    return bad.origin.own_row if bad.order_id else None


def _key(bad: Bad) -> tuple[str, int, int, str, str]:
    return (*bad.origin.place, bad.origin.message_hash, bad.order_id)


def _values(bad: Bad, source: Source) -> tuple[object, ...]:
    origin = bad.origin
    place_and_message = (*origin.place, origin.message_hash, _own_row(bad) or origin.message)
    return (*place_and_message, source.value, bad.reason, _storable(bad.detail), bad.order_id, bad.contents_hash)


def _storable(detail: str) -> str:
    """As PostgreSQL can store it: without NULs and lone surrogates, which may be exactly what was
    wrong with the row.
    """
    return detail[:DETAIL_LENGTH_MAX].replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()
