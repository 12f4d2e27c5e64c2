"""Deletes what would otherwise grow for ever and serves nobody any more: sessions of the admin that
have ended, and quarantined messages that were replayed long ago.

Orders, clearings, operations, attempts, histories and the audit log are kept: they are evidence. So
is a quarantined message that was never replayed.
"""

from typing import Final

import structlog
from django.conf import settings
from django.db import connection

from base.fence import Fence, fenced, no_fence

log = structlog.get_logger(__name__)
ROWS_MAX: Final = 500  # of one transaction, which has FENCE_MS_MAX
TRANSACTIONS_MAX: Final = 200  # of one run and kind: the rest is left to the next

_ENDED_SESSIONS = """
    DELETE FROM django_session WHERE session_key IN (SELECT session_key FROM django_session WHERE expire_date < service_now() LIMIT %(rows)s)
"""
_REPLAYED = """
    DELETE FROM orders_quarantined WHERE id IN (
        SELECT id FROM orders_quarantined WHERE replayed_at < service_now() - %(days)s * interval '1 day' LIMIT %(rows)s)
"""
# A message is stored in the transaction of its first row: one without rows has none any more.
_WITHOUT_ROWS = """
    DELETE FROM orders_quarantinedmessage WHERE message_hash IN (
        SELECT m.message_hash FROM orders_quarantinedmessage m
        WHERE m.kept_at < service_now() - %(days)s * interval '1 day'
            AND NOT EXISTS (SELECT FROM orders_quarantined q WHERE q.message_hash = m.message_hash) LIMIT %(rows)s)
"""
STATEMENTS: Final = {"sessions": _ENDED_SESSIONS, "quarantined": _REPLAYED, "messages": _WITHOUT_ROWS}


def run_tidy(fence: Fence = no_fence) -> dict[str, int]:
    """Deletes in small transactions, each under the fence. Returns how many rows of each kind."""
    deleted = {kind: _delete(sql, fence) for kind, sql in STATEMENTS.items()}
    if any(deleted.values()):
        log.info("tidied", **deleted)
    return deleted


def _delete(sql: str, fence: Fence) -> int:
    total = 0
    for _ in range(TRANSACTIONS_MAX):
        with fenced(fence), connection.cursor() as cursor:
            cursor.execute(sql, {"rows": ROWS_MAX, "days": settings.QUARANTINE_DAYS})
            rows = cursor.rowcount
        total += rows
        if rows < ROWS_MAX:
            break
    return total
