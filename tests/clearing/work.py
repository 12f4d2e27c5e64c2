"""Work that a worker has claimed, and what its call was answered."""

from clearing.flow.flows import Planned, after
from clearing.models import Clearing
from clearing.status import Outcome
from clearing.store import claims
from clearing.store.claims import Evidence, Work
from tests.support.orders import World


def claimed(world: World, clearing: Clearing) -> Work:
    work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
    assert work is not None
    return work


def done(world: World, work: Work) -> tuple[Evidence, Planned]:
    """The evidence of the work's call, made, and the operation that follows."""
    answer = world.counterparties.gateways().perform(work.stored, work.clock)
    following = after(work.flow, work.order, work.step, work.exchanges)
    assert isinstance(following, Planned)
    return Evidence(Outcome.DONE, work.clock.measured_at, response=answer.body), following
