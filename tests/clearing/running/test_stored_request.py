"""Whoever can write the database can't have a worker sign what an order doesn't ask for; and
whatever legitimately stands in the database is sent as it stands.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from base import metrics
from clearing.flow.flows import FLOWS, OrderFacts, key_of, plan, revision_in
from clearing.gateways import Action, Exchanged
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing, Operation
from clearing.running.stored_request import differs
from clearing.status import OperationState, State
from clearing.store import claims
from clearing.store.interventions import OutsideEvidence
from tests.clearing.people import K, done_by_two, rejected
from tests.clearing.restored import now_ms
from tests.support.orders import World, history, operation, outcomes

Change = Callable[[bytes], bytes]


def handed_back(world: World, monkeypatch: pytest.MonkeyPatch, steps: int, direction: str = "OPEN") -> Clearing:
    """An order that workers have taken so many steps, and that is queued for the next one."""
    clearing = world.accept(direction=direction)
    monkeypatch.setattr(world, "stopping", lambda: True)
    for _ in range(steps):
        world.run(clearing)
    monkeypatch.setattr(world, "stopping", lambda: False)
    assert (clearing.state, clearing.step) == (State.QUEUED, steps + 1)
    return clearing


def written_by_hand(operation: Operation, **columns: Any) -> None:
    """One UPDATE of somebody with the database's password."""
    names = ", ".join(f"{name} = %s" for name in columns)
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE clearing_operation SET {names} WHERE id = %s", [*columns.values(), operation.pk])  # noqa: S608 - columns of the test


def alarms() -> float:
    return metrics.REGISTRY.get_sample_value("acceptance_alarms_total", {"code": "request_differs"}) or 0


class TestWrittenByHand:
    @pytest.mark.parametrize(
        ("steps", "direction", "old", "new"),
        [
            (0, "OPEN", b'"usdt":"3000"', b'"usdt":"3"'),
            (1, "OPEN", b'"amount":"3000"', b'"amount":"30000"'),
            (2, "OPEN", b'"sell_amount":"3000"', b'"sell_amount":"2999"'),
            (3, "CLOSE", b'"destination":"user:1001"', b'"destination":"user:666"'),
            (3, "CLOSE", b'"amount":"3000"', b'"amount":"3000.0"'),
        ],
    )
    def test_bytes_are_not_sent(self, world: World, monkeypatch: pytest.MonkeyPatch, steps: int, direction: str, old: bytes, new: bytes) -> None:
        clearing = handed_back(world, monkeypatch, steps, direction)
        stored = operation(clearing, steps + 1)
        changed = bytes(stored.request).replace(old, new)
        assert changed != bytes(stored.request)
        written_by_hand(stored, request=changed)
        sent, told = world.keys_applied(clearing), alarms()

        world.run(clearing)

        assert (clearing.state, clearing.error_code, operation(clearing, steps + 1).state) == (
            State.PARKED,
            "request_differs",
            OperationState.UNKNOWN,
        )
        assert (world.keys_applied(clearing), alarms()) == (sent, told + 1)
        assert history(clearing)[-1] == ("running", "parked", steps + 1)

    @pytest.mark.parametrize("columns", [{"key": "T000000:1"}, {"counterparty": "fund"}, {"action": "transfer"}])
    def test_nor_is_a_key_a_counterparty_or_an_action(self, world: World, columns: dict[str, str]) -> None:
        clearing = world.accept()
        written_by_hand(operation(clearing, 1), **columns)

        world.run(clearing)

        assert (clearing.state, clearing.error_code, world.counterparties.applied) == (State.PARKED, "request_differs", [])

    def test_nothing_is_asked_for_under_them_either(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
        clearing = world.run(world.accept())
        assert clearing.state == State.UNKNOWN
        written_by_hand(operation(clearing, 1), key="somebody's")
        before = outcomes(clearing)

        world.when_due(clearing)

        assert (clearing.error_code, outcomes(clearing)) == ("request_differs", before)

    def test_the_users_next_order_goes_on(self, world: World) -> None:
        clearing, following = world.accept(contract_id="A"), world.accept(contract_id="B")
        written_by_hand(operation(clearing, 1), request=b"{}")

        world.run(clearing)

        following.refresh_from_db()
        assert (clearing.state, following.state) == (State.PARKED, State.CLEARED)

    def test_a_retry_parks_again_and_goes_on_with_the_right_bytes(self, world: World) -> None:
        clearing = world.accept()
        right = bytes(operation(clearing, 1).request)
        written_by_hand(operation(clearing, 1), request=b"{}")
        world.run(clearing)

        retry_by_hand(clearing.pk, actor="ann", reason="again")
        assert world.run(clearing).error_code == "request_differs"
        written_by_hand(operation(clearing, 1), request=right)
        retry_by_hand(clearing.pk, actor="ann", reason="the bytes are back")

        assert world.run(clearing).state == State.CLEARED

    def test_two_people_have_it_planned_anew(self, world: World) -> None:
        clearing = world.accept()
        written_by_hand(operation(clearing, 1), request=b"{}")
        world.run(clearing)

        done_by_two(clearing, K.CONFIRM_NOT_DONE)
        retry_by_hand(clearing.pk, actor="ann", reason="it was not done")

        assert world.run(clearing).state == State.CLEARED
        assert world.keys_applied(clearing) == ["1:r1", "2", "3", "4"]


class TestWhatIsRight:
    """Each is claimed by a worker other than the one that wrote it down, and none parks."""

    @pytest.mark.parametrize("direction", ["OPEN", "CLOSE"])
    def test_every_step(self, world: World, monkeypatch: pytest.MonkeyPatch, direction: str) -> None:
        clearing = handed_back(world, monkeypatch, 3, direction)

        assert world.run(clearing).state == State.CLEARED

    @pytest.mark.parametrize("action", [Action.ADJUST, Action.TRANSFER, Action.EXCHANGE])
    def test_a_raised_revision(self, world: World, action: Action) -> None:
        clearing = rejected(world, action)
        step = clearing.step
        for _ in range(2):
            world.counterparties.script(action, Fault(kind=FaultKind.REFUSE))
            retry_by_hand(clearing.pk, actor="ann", reason="again")
            assert world.run(clearing).state == State.PARKED
        retry_by_hand(clearing.pk, actor="ann", reason="again")

        assert world.run(clearing).state == State.CLEARED
        assert f"{step}:r3" in world.keys_applied(clearing)

    def test_parts_and_a_further_part_by_hand(self, world: World, settings: Settings) -> None:
        settings.CLEARING_PARTS_MAX = 2
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL), times=2)
        clearing = world.run(world.accept())
        assert (clearing.state, clearing.error_code) == (State.PARKED, "partial_execution")
        retry_by_hand(clearing.pk, actor="ann", reason="the rest")

        assert world.run(clearing).state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "3.2", "3.3", "4"]

    def test_a_part_that_was_handed_back(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = handed_back(world, monkeypatch, 2)
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL), times=1)
        monkeypatch.setattr(world, "stopping", lambda: True)
        world.run(clearing)
        assert (clearing.step, operation(clearing, 3).part) == (3, 2)
        monkeypatch.setattr(world, "stopping", lambda: False)

        assert world.run(clearing).state == State.CLEARED

    def test_what_follows_an_exchange_that_people_confirmed(self, world: World) -> None:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.RESET))
        clearing = world.run(world.accept())
        sold = OutsideEvidence(reference="t-1", amount=Decimal(3000), bought=Decimal("0.0499"), document="call")
        done_by_two(clearing, K.CONFIRM_DONE, sold)

        assert world.run(clearing).state == State.CLEARED
        assert json.loads(bytes(operation(clearing, 4).request))["amount"] == "0.0499"

    def test_a_step_whose_key_is_not_known_and_whose_bytes_are_sent_again(self, world: World) -> None:
        world.counterparties.script(Action.TRANSFER, Fault(kind=FaultKind.RESET))
        clearing = world.run(world.accept())

        assert world.when_due(clearing).state == State.CLEARED

    def test_a_restored_order(self, world: World, settings: Settings) -> None:
        settings.CLEARING_RUN_STEPS_INLINE = False
        clearing = world.accept(restored=True, created_ms=now_ms())

        for _ in range(4):
            world.run(clearing)

        assert (clearing.state, world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])
        assert outcomes(clearing)[0] == (1, "?retryable", "unknown_key")

    @pytest.mark.parametrize(
        ("quantity", "quoted"),
        [("0.050000000000000000", "3000.000000000000000000"), ("0.123456789012345678", "0.000001999999999999"), ("1E-8", "1E+6"), ("100", "1e17")],
    )
    def test_amounts_as_the_message_and_as_the_database_spell_them(self, quantity: str, quoted: str) -> None:
        """18 decimal places in the database; as many as it likes in the message."""
        told = facts(quantity=Decimal(quantity), quoted_usdt=Decimal(quoted))
        stored = facts(quantity=Decimal(f"{Decimal(quantity):.18f}"), quoted_usdt=Decimal(f"{Decimal(quoted):.18f}"))

        for direction in ("OPEN", "CLOSE"):
            for step in (1, 2, 3):
                assert plan(1, replace(told, direction=direction), step) == plan(1, replace(stored, direction=direction), step)


def facts(**changed: Any) -> OrderFacts:
    order = OrderFacts("O1", "1001", "C1", "OPEN", "BTC", Decimal("0.05"), Decimal(3000))
    return replace(order, **changed)


class TestKeys:
    @pytest.mark.parametrize("order_id", ["O1", "O:1", "O1:1:r5", "O1:1.2"])
    @pytest.mark.parametrize(("step", "part", "revision"), [(1, 1, 0), (1, 1, 7), (3, 2, 0), (3, 12, 100)])
    def test_name_their_revision_whatever_the_order_is_called(self, order_id: str, step: int, part: int, revision: int) -> None:
        assert revision_in(key_of(order_id, step, part, revision), order_id, step, part) == revision

    @pytest.mark.parametrize("key", ["O1:1:r01", "O1:1:r-1", "O1:1:r", "O1:1:r1 ", "O1:1:r²", "7", "O1:2"])
    def test_that_none_of_ours_can_be_are_none(self, world: World, key: str) -> None:
        work = claims.claim(*claimed(world), worker=lambda: "w", gives_up=lambda: True)
        assert work is not None
        assert not differs(work)
        foreign = key.replace("O1", work.order.order_id)

        assert differs(replace(work, stored=replace(work.stored, key=foreign)))


def claimed(world: World) -> tuple[int, int]:
    clearing = world.accept()
    return clearing.pk, clearing.epoch


class TestAFlowKeepsItsBytes:
    """Orders that another release has opened by a flow are in flight: its bytes stay the same as
    long as it is there. A change is a new entry of FLOWS, with a line of its own here.
    """

    GOLDEN = {(1, "OPEN"): "45cdbea84864a18f", (1, "CLOSE"): "cf5d64c8b14ba39a"}

    @pytest.mark.parametrize(("flow", "direction"), [(flow, direction) for flow in FLOWS for direction in ("OPEN", "CLOSE")])
    def test_for_ever(self, flow: int, direction: str) -> None:
        order = facts(direction=direction, quantity=Decimal("0.123456789012345678"), quoted_usdt=Decimal("7404.0123456789"))
        sells, buys = ("USDT", "BTC") if direction == "OPEN" else ("BTC", "USDT")
        parts = [
            Exchanged("x", 1, sells, Decimal("0.1"), buys, Decimal("0.0123456789"), Decimal(60_000), Decimal("0.001")),
            Exchanged("y", 2, sells, Decimal("0.0004"), buys, Decimal("0.03"), Decimal(60_000), Decimal("0.001")),
        ]
        planned = [
            *(plan(flow, order, step) for step in (1, 2, 3)),
            plan(flow, order, 3, parts[:1], part=2),
            plan(flow, order, 3, parts, part=3, revision=2),
            plan(flow, order, 4, parts),
        ]
        written = b"\n".join(f"{one.counterparty} {one.action} {one.key} ".encode() + one.request for one in planned)

        assert hashlib.sha256(written).hexdigest()[:16] == self.GOLDEN[flow, direction], written.decode()
