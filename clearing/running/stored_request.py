"""Whether a stored operation is what its order's flow plans: whoever can write the database could
otherwise have a worker sign any transfer.

What is compared is what another process has stored, once at each claim; an operation that the
claim itself has planned is still in memory. Whether the order is the counter's at all is another
question (`clearing/running/real_order.py`).
"""

from clearing.flow.flows import plan, revision_in
from clearing.gateways import StoredRequest
from clearing.store.claims import Work

REQUEST_DIFFERS = "request_differs"


def differs(work: Work) -> bool:
    """Whether the counterparty, the action, the key or the bytes aren't those of the clearing's own
    flow. Equal bytes are the rule for all of a flow's life: a flow's functions, the fields' order
    and the assets' scales change with a new entry of FLOWS only.
    """
    if work.planned_here:
        return False
    revision = revision_in(work.stored.key, work.order.order_id, work.step, work.part)
    planned = plan(work.flow, work.order, work.step, work.exchanges, part=work.part, revision=revision)
    return work.stored != StoredRequest(planned.counterparty, planned.action, planned.key, planned.request)
