"""Two releases side by side: what one has begun, the other goes on with as it was meant, or leaves
to the other.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from clearing import tasks
from clearing.flow import flows
from clearing.flow.amounts import ZERO
from clearing.flow.fills import Residue
from clearing.flow.flows import FLOWS
from clearing.gateways import Transfer
from clearing.models import Clearing
from clearing.status import OperationState, State
from clearing.store import claims, interventions, statements
from tests.clearing.people import K, done_by_two
from tests.support.orders import World, operation, outcomes

Release = Callable[[str], None]


def _of_the_next_release(order: flows.OrderFacts, parts: Any) -> Transfer:
    found = FLOWS[1]["OPEN"][3].request(order, parts)
    assert isinstance(found, Transfer)
    return Transfer(order_id=found.order_id, asset=found.asset, amount=found.amount, source="fund", destination="vault")


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch) -> Release:
    """Makes this process one of release N, or of N+1, whose flow 2 ends elsewhere."""
    first = FLOWS[1]["OPEN"]
    last = flows.Step(first[3].counterparty, first[3].action, _of_the_next_release)
    second = {**FLOWS[1], "OPEN": (*first[:3], last)}

    def become(name: str) -> None:
        found = {"N": {1: FLOWS[1]}, "N+1": {1: FLOWS[1], 2: second}}[name]
        monkeypatch.setattr(flows, "FLOWS", found)
        monkeypatch.setattr(claims, "FLOWS", found)
        monkeypatch.setattr(claims, "CURRENT_FLOW", max(found))

    become("N")
    return become


def begun(world: World, monkeypatch: pytest.MonkeyPatch) -> Clearing:
    """An order whose first step a worker of this release has taken, and handed back."""
    monkeypatch.setattr(world, "stopping", lambda: True)
    clearing = world.run(world.accept())
    monkeypatch.setattr(world, "stopping", lambda: False)
    return clearing


class TestFlows:
    def test_what_the_release_before_began_ends_by_its_own_flow(self, world: World, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = begun(world, monkeypatch)
        release("N+1")

        world.run(clearing)

        assert (clearing.state, clearing.flow) == (State.CLEARED, 1)
        assert b'"system"' in bytes(operation(clearing, 4).request)

    def test_a_newer_flow_is_left_to_the_newer_release_and_nothing_is_called(self, world: World, release: Release) -> None:
        release("N+1")
        clearing = world.accept()
        release("N")

        world.run(clearing)

        assert (clearing.state, clearing.error_code, world.keys_applied(clearing)) == (State.RETRYING, "flow_unknown", [])
        release("N+1")
        world.when_due(clearing)
        assert (clearing.state, clearing.flow) == (State.CLEARED, 2)
        assert b"vault" in bytes(operation(clearing, 4).request)

    def test_also_one_whose_counterparty_and_action_this_release_has_never_heard_of(self, world: World, release: Release) -> None:
        release("N+1")
        clearing = world.accept()
        release("N")
        clearing.operations.update(counterparty="broker", action="hedge")

        world.run(clearing)

        assert (clearing.state, clearing.error_code, operation(clearing, 1).state) == (State.RETRYING, "flow_unknown", OperationState.PLANNED)
        assert outcomes(clearing) == []

    def test_one_that_may_have_been_sent_stays_in_doubt(self, world: World, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
        release("N+1")
        clearing = world.accept()
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "killed", gives_up=lambda: True)
        release("N")

        world.when_due(clearing)

        assert (clearing.state, operation(clearing, 1).state) == (State.UNKNOWN, OperationState.UNKNOWN)
        assert outcomes(clearing)[-1] == (1, "lost", "claim_lost")


class TestBytes:
    def test_of_a_flow_that_a_release_changes_instead_of_adding_another_are_not_sent(
        self, world: World, release: Release, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clearing = begun(world, monkeypatch)

        def other(order: flows.OrderFacts, _: Any) -> Transfer:
            return Transfer(order_id=order.order_id, asset="USDT", amount=order.quoted_usdt - 1, source="system", destination="fund")

        first = FLOWS[1]["OPEN"]
        changed = (first[0], flows.Step(first[1].counterparty, first[1].action, other), *first[2:])
        monkeypatch.setattr(flows, "FLOWS", {1: {**FLOWS[1], "OPEN": changed}})

        world.run(clearing)

        assert (clearing.state, clearing.error_code, world.keys_applied(clearing)) == (State.PARKED, "request_differs", ["1"])


class TestMessages:
    @pytest.mark.parametrize("task", [tasks.step_1, tasks.step_2, tasks.step_3, tasks.step_4])
    def test_arguments_of_the_release_after_are_left_alone(self, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[int, int]] = []
        monkeypatch.setattr(tasks, "run_chain", lambda _task, _step, clearing_id, epoch: seen.append((clearing_id, epoch)))

        task(clearing_id=7, epoch=3, since_ms=5, priority="high")

        assert seen == [(7, 3)]


class TestCallsOfTheReleaseBefore:
    """Their signatures stay for a release (sql/90_release_before.sql)."""

    LATEST = {
        "ACCEPT": (
            ", p_limited => %(limited)s::boolean[], p_user_usdt_max => %(user_usdt_max)s, p_key_retention_seconds => %(key_retention_seconds)s",
            "",
        ),
        "STEP_DONE": (", p_holds => %(holds)s", ""),
        "FINISH": ("p_surplus => %(surplus)s, p_dust => %(dust)s, ", ""),
        "FINISH_CONFIRMED": ("p_surplus => %(surplus)s, p_dust => %(dust)s, ", ""),
        "CONFIRM_DONE": ("p_holds => %(holds)s, ", ""),
    }
    EARLIER = {
        "ACCEPT": ("counterparties => %(counterparties)s::text[], p_actions => %(actions)s::text[], p_", ""),
        "FINISH": ("step => %(step)s, p_", ""),
        "FINISH_CONFIRMED": ("step => %(step)s, p_", ""),
        "VOID": ("last_step => %(last_step)s, p_", ""),
    }

    @pytest.fixture(autouse=True, params=[(LATEST,), (LATEST, EARLIER)], ids=["latest", "earlier"])
    def its_calls(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, (added, nothing) in [item for before in request.param for item in before.items()]:
            statement = getattr(statements, name)
            assert added in statement
            monkeypatch.setattr(statements, name, statement.replace(added, nothing))

    def test_clear_an_order(self, world: World) -> None:
        clearing = world.run(world.accept())

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert (operation(clearing, 1).counterparty, operation(clearing, 1).action) == ("counter", "adjust")

    def test_void_one(self, world: World) -> None:
        clearing = world.accept()
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")

        done_by_two(clearing, K.VOID)

        clearing.refresh_from_db()
        assert clearing.state == State.VOIDED

    def test_clear_one_whose_last_step_was_confirmed(self, world: World) -> None:
        clearing = world.accept()
        work = claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        Clearing.objects.filter(pk=clearing.pk).update(step=4)
        clearing.operations.update(step=4, state=OperationState.DONE)

        recorded = interventions.finish_confirmed(replace(work, step=4), Residue(ZERO), generation="")

        assert recorded.outcome == State.CLEARED
