"""A change of the business is a new entry of FLOWS, and nothing else: a flow whose first step is a
fund transfer runs from acceptance to the end, each step at its own counterparty.
"""

import pytest

from clearing.flow import flows
from clearing.flow.flows import FLOWS, Flow
from clearing.gateways import Action, Counterparty
from clearing.models import Operation
from clearing.status import OperationState, State
from clearing.store import claims
from tests.support.orders import World

TRANSFER_FIRST = [
    (Counterparty.FUND, Action.TRANSFER),
    (Counterparty.COUNTER, Action.ADJUST),
    (Counterparty.TRADING, Action.EXCHANGE),
    (Counterparty.FUND, Action.TRANSFER),
]


@pytest.fixture(autouse=True)
def flow_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two steps of flow 1, the other way round; orders are opened with it."""
    second: Flow = {direction: (steps[1], steps[0], *steps[2:]) for direction, steps in FLOWS[1].items()}
    monkeypatch.setattr(flows, "FLOWS", {**FLOWS, 2: second})
    monkeypatch.setattr(claims, "FLOWS", flows.FLOWS)
    monkeypatch.setattr(claims, "CURRENT_FLOW", 2)


@pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
def test_whose_first_step_is_a_transfer_runs_to_its_end(world: World, direction: str) -> None:
    clearing = world.accept(direction=direction)
    [first] = Operation.objects.filter(clearing=clearing)
    assert (first.counterparty, first.action) == TRANSFER_FIRST[0]

    world.run(clearing)

    order_id = clearing.order.order_id
    assert (clearing.state, clearing.flow) == (State.CLEARED, 2)
    assert [(effect.key, effect.counterparty, effect.action) for effect in world.counterparties.applied] == [
        (f"{order_id}:{step}", *called) for step, called in enumerate(TRANSFER_FIRST, 1)
    ]
    written = Operation.objects.filter(clearing=clearing).order_by("step")
    assert [(row.counterparty, row.action, row.state) for row in written] == [(*called, OperationState.DONE) for called in TRANSFER_FIRST]


def test_and_from_a_worker_that_died_in_its_first_step(world: World) -> None:
    clearing = world.accept()
    claims.claim(clearing.pk, clearing.epoch, worker=lambda: "killed", gives_up=lambda: True)

    world.when_due(clearing)

    assert clearing.state == State.CLEARED
    assert [effect.counterparty for effect in world.counterparties.applied] == [counterparty for counterparty, _ in TRANSFER_FIRST]
