"""Whether the counter wrote the order that a worker is about to act for: whoever can write the
database could otherwise invent one, or lead its money elsewhere.

The counter's MAC, which the intake has checked, is checked again once at each claim, at whatever
step: an order may have been written down with steps that look done.
"""

from clearing.store.claims import Work
from orders.intake.authentic import Authority
from orders.intake.mapping import NewOrder

NOT_AUTHENTIC = "not_authentic"


def doubt(work: Work) -> str:
    """Why the order can't be taken for the counter's, in words; empty where it can, or where no MAC
    is asked for.
    """
    authority = None if work.row is None else Authority.from_settings()
    return "" if authority is None else authority.doubt(_row(work))


def _row(work: Work) -> NewOrder:
    assert work.row is not None
    order, row = work.order, work.row
    return NewOrder(
        order_id=order.order_id,
        user_id=order.user_id,
        shard=row.shard,
        sequence=row.sequence,
        contract_id=order.contract_id,
        direction=order.direction,
        asset=order.asset,
        quantity=order.quantity,
        quoted_usdt=order.quoted_usdt,
        instrument=row.instrument,
        created_ms=work.created_ms,
        kind=row.kind,
        mac=row.mac,
        mac_key_id=row.mac_key_id,
    )
