"""What our database says, in one snapshot and five statements, however many orders there are."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from django.db import connection, transaction

from ops.audit.facts import HeldOrder

ORDERS_SQL = """
    SELECT c.id, o.order_id, o.user_id, o.contract_id, o.created_ms, o.shard, o.sequence, c.state, o.late,
           extract(epoch FROM c.accepted_at) * 1000, extract(epoch FROM c.started_at) * 1000, extract(epoch FROM c.cleared_at) * 1000,
           c.slippage_usdt
    FROM orders_syncorder o JOIN clearing_clearing c ON c.order_id = o.id
"""
PROMOTED_SQL = """
    SELECT clearing_id, extract(epoch FROM min(at)) * 1000 FROM clearing_statuschange
    WHERE from_state = 'waiting' AND to_state = 'queued' GROUP BY clearing_id
"""
PARKED_SQL = """
    SELECT clearing_id, to_state = 'parked', extract(epoch FROM at) * 1000 FROM clearing_statuschange
    WHERE (to_state = 'parked') <> (from_state = 'parked') ORDER BY id
"""
# Parked although a call of the step was sent of which nobody knew what became (poison, a key older
# than its retention), and not sent since.
IN_DOUBT_SQL = """
    SELECT h.clearing_id, o.key FROM clearing_statuschange h JOIN clearing_operation o ON o.clearing_id = h.clearing_id AND o.step = h.step
    WHERE h.to_state = 'parked' AND h.from_state <> 'parked' AND EXISTS (
        SELECT FROM clearing_attempt a
        WHERE a.operation_id = o.id AND NOT a.asked AND a.outcome IN ('unknown', 'lost') AND a.sent_at <= h.at)
        AND NOT EXISTS (SELECT FROM clearing_attempt a WHERE a.operation_id = o.id AND NOT a.asked AND a.sent_at > h.at)
"""
STATEMENT_SECONDS_MAX = 60  # an audit reads everything; it is run by hand, on stacks of a sandbox
LIMITS_SQL = "SELECT set_config('statement_timeout', %s, true), set_config('transaction_timeout', '0', true)"
ENDED_SQL = """
    SELECT count(*) FROM orders_syncorder o JOIN clearing_clearing c ON c.order_id = o.id
    WHERE c.state IN ('cleared', 'voided') AND o.order_id = ANY (%s)
"""
Span = tuple[float, float | None]


def read_orders() -> dict[str, HeldOrder]:
    """Every order with its clearing. Raises django.db.DatabaseError."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(LIMITS_SQL, [f"{STATEMENT_SECONDS_MAX}s"])
        cursor.execute(PROMOTED_SQL)
        promoted = {pk: float(at) for pk, at in cursor.fetchall()}
        cursor.execute(PARKED_SQL)
        parked = parked_spans(cursor.fetchall())
        cursor.execute(IN_DOUBT_SQL)
        in_doubt: dict[int, set[str]] = defaultdict(set)
        for pk, key in cursor.fetchall():
            in_doubt[pk].add(key)
        cursor.execute(ORDERS_SQL)
        return {row[1]: _held(row, promoted, parked, in_doubt) for row in cursor.fetchall()}


def count_ended(order_ids: Sequence[str]) -> int:
    """How many of these orders are cleared, or were voided by people. Raises
    django.db.DatabaseError.
    """
    with connection.cursor() as cursor:
        cursor.execute(ENDED_SQL, [list(order_ids)])
        return int((cursor.fetchone() or (0,))[0])


def parked_spans(changes: Sequence[tuple[int, bool, Decimal | float]]) -> dict[int, tuple[Span, ...]]:
    """From (clearing, whether it was parked or left, ms), in the order of writing, to each
    clearing's spans; the last may be open.
    """
    spans: dict[int, list[Span]] = defaultdict(list)
    for pk, entered, at in changes:
        if entered:
            spans[pk].append((float(at), None))
        elif spans[pk]:
            spans[pk][-1] = (spans[pk][-1][0], float(at))
    return {pk: tuple(found) for pk, found in spans.items()}


def _held(row: Sequence[Any], promoted: Mapping[int, float], parked: Mapping[int, tuple[Span, ...]], in_doubt: Mapping[int, set[str]]) -> HeldOrder:
    pk, order_id, user_id, contract_id, created_ms, shard, sequence, state, late, accepted, started, cleared, slippage = row
    return HeldOrder(
        order_id=order_id,
        user_id=user_id,
        contract_id=contract_id,
        place=(created_ms, shard, sequence),
        state=state,
        late=late,
        accepted_ms=float(accepted),
        started_ms=_float(started),
        cleared_ms=_float(cleared),
        slippage_usdt=slippage,
        promoted_ms=promoted.get(pk),
        parked=parked.get(pk, ()),
        in_doubt=frozenset(in_doubt.get(pk, ())),
    )


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
