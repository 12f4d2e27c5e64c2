"""Two operators void an order: the bookings that it needs, and what prevents it."""

from decimal import Decimal

import pytest
from django.db import connection
from pytest_django import Settings

from base.clock import shift_clock
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import approve, refuse, retry_by_hand
from clearing.models import Attempt, Intervention
from clearing.status import InterventionState, State
from clearing.store import claims, interventions, recovery
from clearing.store.interventions import NotPossible
from ops.recovery.sweep import sweep
from tests.clearing.people import BEN, LATER, K, asked, done_by_two, late_answer, mark_dead, rejected, unknown
from tests.support.orders import World, history, operation


class TestVoid:
    def test_closes_a_rejected_order_and_lets_its_users_and_its_contracts_others_go_on(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.REFUSE))
        clearing = world.run(world.accept(contract_id="c-1"))
        sibling = world.accept(contract_id="c-1")
        assert sibling.state == State.WAITING

        done_by_two(clearing, K.VOID)

        sibling.refresh_from_db()
        assert (clearing.state, sibling.state) == (State.VOIDED, State.QUEUED)
        assert history(clearing)[-1] == ("parked", "voided", 1)

    def test_before_step_1_nothing_is_to_be_booked(self, world: World) -> None:
        done_by_two(rejected(world, Action.ADJUST), K.VOID)

        assert Intervention.objects.get().bookings == []

    def test_after_step_1_it_names_the_bookings_that_make_it_whole(self, world: World) -> None:
        done_by_two(rejected(world), K.VOID)

        assert booked() == {("system", "USDT"): "-3000", ("counter", "USDT"): "3000", ("system", "BTC"): "0.05", ("counter", "BTC"): "-0.05"}

    def test_of_a_close_too(self, world: World) -> None:
        clearing = rejected(world, Action.EXCHANGE, direction="CLOSE")

        done_by_two(clearing, K.VOID)

        assert booked() == {
            ("counter", "BTC"): "0.05",
            ("fund", "BTC"): "-0.05",
            ("counter", "USDT"): "3000",
            (f"owed:{clearing.user_id}", "USDT"): "-3000",
        }

    def test_what_was_exchanged_already_is_traded_back(self, world: World) -> None:
        world.counterparties.script(Action.EXCHANGE, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.5")), times=3)
        clearing = world.run(world.accept())
        assert clearing.error_code == "partial_execution"

        done_by_two(clearing, K.VOID)

        assert booked() == {
            ("counter", "USDT"): "3000",
            ("fund", "USDT"): "-375",
            ("market", "USDT"): "-2625",
            ("counter", "BTC"): "-0.05",
            ("system", "BTC"): "0.05",
            ("fund", "BTC"): "-0.04375",
            ("market", "BTC"): "0.04375",
        }

    @pytest.mark.parametrize("fault", [FaultKind.RESET, FaultKind.IN_PROGRESS])
    def test_not_while_nobody_knows_whether_its_operation_was_done(self, world: World, fault: FaultKind) -> None:
        clearing = unknown(world, kind=fault)
        refuse(asked(clearing, K.CONFIRM_NOT_DONE), operator=BEN, reason="let us ask them again")

        with pytest.raises(NotPossible, match="not known whether"):
            asked(clearing, K.VOID)

    def test_nor_does_the_database_let_it(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = unknown(world)
        refuse(asked(clearing, K.CONFIRM_NOT_DONE), operator=BEN, reason="let us ask them again")
        monkeypatch.setattr("clearing.interventions.requests.require", lambda *_: None)
        pk = asked(clearing, K.VOID)
        shift_clock(LATER)

        with pytest.raises(NotPossible, match="isn't finished"):
            approve(pk, operator=BEN)

        clearing.refresh_from_db()
        assert (clearing.state, Intervention.objects.get(pk=pk).state) == (State.PARKED, InterventionState.FAILED)

    def test_not_while_a_request_may_still_be_on_its_way(self, world: World) -> None:
        """A worker that had lost its claim wakes, sends, and is told nothing, just after two people
        said that the step wasn't done.
        """
        clearing = done_by_two(unknown(world), K.CONFIRM_NOT_DONE)
        connection.cursor().execute(
            "SELECT clearing_record_attempt(%s, 1, 'w', false, 5000, 0, 'unknown', 'timeout', '', NULL)", [operation(clearing, 2).pk]
        )
        pk = asked(clearing, K.VOID)

        with pytest.raises(NotPossible, match="on its way"):
            approve(pk, operator=BEN)

        clearing.refresh_from_db()
        assert (clearing.state, Intervention.objects.get(pk=pk).state) == (State.PARKED, InterventionState.REQUESTED)
        shift_clock(LATER)
        approve(pk, operator=BEN)

    def test_a_frozen_workers_claim_counts_to_its_own_end(self, world: World, settings: Settings) -> None:
        """Declared dead after three seconds, it may wake and sign until the end of the claim that
        it was given.
        """
        clearing = world.accept()
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "frozen", gives_up=lambda: True)
        mark_dead("frozen")
        recovery.requeue([clearing.pk], actor="sweep", generation="")

        until = interventions.on_its_way_until(clearing.pk)

        taken = Attempt.objects.get()
        assert until is not None
        assert (until - taken.sent_at).total_seconds() == pytest.approx(settings.CLEARING_CLAIM_SECONDS + settings.REQUEST_TRANSIT_SECONDS)

    def test_an_answer_that_says_done_stands_against_it(self, world: World) -> None:
        clearing = done_by_two(unknown(world), K.CONFIRM_NOT_DONE)
        late_answer(clearing)
        pk = asked(clearing, K.VOID)
        shift_clock(LATER)

        with pytest.raises(NotPossible, match="answered"):
            approve(pk, operator=BEN)

        clearing.refresh_from_db()
        assert clearing.state == State.PARKED

    def test_a_running_order_is_not_voided(self, world: World) -> None:
        with pytest.raises(NotPossible, match="only a parked order"):
            asked(world.accept(), K.VOID)

    def test_what_is_voided_stays_so(self, world: World) -> None:
        clearing = done_by_two(rejected(world), K.VOID)

        with pytest.raises(NotPossible, match="voided"):
            retry_by_hand(clearing.pk, actor="cleo", reason="again")
        assert sum(sweep().values()) == 0


def booked() -> dict[tuple[str, str], str]:
    return {(one["account"], one["asset"]): one["amount"] for one in Intervention.objects.get(kind=K.VOID).bookings}
