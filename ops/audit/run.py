"""The audit from end to end: waits where asked to, reads in the order that is fair to a running
system, judges.
"""

from collections.abc import Callable
from time import monotonic, sleep

from ops.audit import database
from ops.audit.facts import Books
from ops.audit.report import Report, judge
from ops.audit.sandbox import SandboxReader, sandbox_url

POLL_SECONDS = 0.5


def run_audit(*, wait_seconds: float = 0.0, on_wait: Callable[[int, int], None] = lambda _cleared, _placed: None) -> Report:
    """Waits until every placed order is cleared, at most so long (`on_wait` hears cleared and
    placed), and audits.

    Raises SandboxError, and django.db.DatabaseError.
    """
    reader = SandboxReader(sandbox_url())
    try:
        if wait_seconds > 0:
            await_cleared(reader, monotonic() + wait_seconds, on_wait)
        return judge(read_books(reader))
    finally:
        reader.close()


def await_cleared(reader: SandboxReader, deadline: float, on_wait: Callable[[int, int], None]) -> bool:
    """Polls until all that is placed is cleared, or voided by people; False when the time is up."""
    placed, position = reader.orders()
    order_ids = [order.order_id for order in placed]
    while True:
        ended = database.count_ended(order_ids)
        on_wait(ended, len(order_ids))
        if ended >= len(order_ids):
            return True
        if monotonic() >= deadline:
            return False
        sleep(min(POLL_SECONDS, max(deadline - monotonic(), 0)))
        further, position = reader.orders(position)
        order_ids += [order.order_id for order in further]


def read_books(reader: SandboxReader) -> Books:
    """Everything, placed orders first and effects last: what moves on meanwhile can only look
    further than it was, never missing.
    """
    placed, position = reader.orders()
    held = database.read_orders()
    later, _ = reader.orders(position)
    return Books(
        placed={order.order_id: order for order in placed},
        held=held,
        effects=reader.effects(),
        residues=reader.residues(),
        balanced=reader.balanced(),
        placed_later=frozenset(order.order_id for order in later),
    )
