"""Whether the counter wrote the order that a worker is about to act for: whoever can write the
database could otherwise invent one, or lead its money elsewhere.

The counter's MAC, which the intake has checked, is checked again once at each claim, at whatever
step: an order may have been written down with steps that look done.
"""

from clearing.store.claims import Work
from orders.intake.authentic import Authority

NOT_AUTHENTIC = "not_authentic"


def doubt(work: Work) -> str:
    """Why the order can't be taken for the counter's, in words; empty where it can, or where no MAC
    is asked for.
    """
    authority = Authority.from_settings()
    return "" if authority is None or work.row is None else authority.doubt(work.row)
