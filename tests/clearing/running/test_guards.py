"""What a careful reader found: each of these fails when its guard is taken out."""

import time
from decimal import Decimal

import pytest

from acceptance_site.celery import app
from base.clock import shift_clock
from clearing.dispatch import publish
from clearing.flow.flows import CURRENT_FLOW, Planned, after
from clearing.gateways import Action, Exchanged, UnknownOutcome
from clearing.gateways.fake import Fault, FaultKind
from clearing.interventions.requests import retry_by_hand
from clearing.models import Attempt, Clearing
from clearing.policy.backoff import RETRY_AFTER_MS_MAX, Backoff, Reaction
from clearing.status import OperationState, State
from clearing.store import claims, recovery
from clearing.store.claims import ClearingRef
from tests.clearing.work import claimed, done
from tests.support.orders import World, operation, outcomes


class TestBrokerAway:
    @pytest.fixture
    def closed_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(app.conf, "broker_write_url", "redis://127.0.0.1:1/0")
        monkeypatch.setattr(publish, "_publisher", publish._Publisher())
        monkeypatch.setattr(publish, "_unavailable", publish._Unavailable())

    def test_publishing_says_so_and_raises_nothing(self, closed_port: None) -> None:
        assert publish.publish([ClearingRef(1, 1, 1, 0, 0)]) is False

    def test_publishers_leave_it_alone_for_a_moment(self, closed_port: None, monkeypatch: pytest.MonkeyPatch) -> None:
        publish.publish([ClearingRef(1, 1, 1, 0, 0)])
        monkeypatch.setattr(publish, "_send", lambda *_: pytest.fail("asked again"))

        assert publish.publish([ClearingRef(1, 1, 1, 0, 0)]) is False


class TestTakenOver:
    def test_the_earliest_possible_sending_counts_for_how_long_the_key_is_kept(self, world: World) -> None:
        clearing = world.accept()
        claimed(world, clearing)
        shift_clock(8 * 24 * 3600)
        world.counterparties.clock_ms = lambda: (time.time_ns() // 1_000_000) + 8 * 24 * 3_600_000
        recovery.requeue([clearing.pk], actor="sweep", generation="")
        clearing.refresh_from_db()

        world.run(clearing)

        shift_clock(0)
        assert (clearing.state, clearing.error_code) == (State.PARKED, "key_expired")
        assert world.keys_applied(clearing) == []


class TestInternalErrors:
    def test_an_unexpected_error_parks_the_order_instead_of_running_for_ever(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        monkeypatch.setattr("clearing.running.runner.after", lambda *_, **__: 1 / 0)

        world.run(clearing)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "internal_error")
        assert operation(clearing, 1).state == OperationState.UNKNOWN

    def test_what_was_answered_before_is_kept(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        monkeypatch.setattr("clearing.running.runner.after", lambda *_, **__: 1 / 0)

        world.run(clearing)

        assert outcomes(clearing) == [(1, "done", ""), (1, "unknown", "internal_error")]

    def test_an_answer_that_cannot_be_kept_parks_the_order_too(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()

        def unkeepable(*_: object) -> None:
            raise UnknownOutcome("a\0b")

        monkeypatch.setattr("clearing.gateways.ports.Gateways.perform", unkeepable)
        world.run(clearing)

        assert (clearing.state, clearing.error_code) == (State.PARKED, "internal_error")

    def test_and_a_retry_after_the_fix_does_nothing_twice(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        with monkeypatch.context() as patched:
            patched.setattr("clearing.running.runner.after", lambda *_, **__: 1 / 0)
            world.run(clearing)

        retry_by_hand(clearing.pk, actor="ann", reason="fixed in 1.2")
        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]

    def test_one_that_comes_after_the_record_leaves_what_is_recorded_alone(self, world: World) -> None:
        work = claimed(world, world.accept())
        evidence, following = done(world, work)
        claims.step_done(work, evidence, following, exchanges=(), in_place=True, generation="")

        settled = claims.settle(work, evidence, Reaction(State.PARKED, OperationState.UNKNOWN), counted=False, generation="")

        clearing = Clearing.objects.get()
        assert (settled.outcome, clearing.state, clearing.step) == ("lost", State.RUNNING, 2)
        assert operation(clearing, 1).state == OperationState.DONE


class TestHostileAnswers:
    def test_a_nul_in_a_detail_is_kept_as_a_replacement(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()

        def hostile(*_: object) -> None:
            raise UnknownOutcome("status_503", "a\0b")

        monkeypatch.setattr("clearing.gateways.ports.Gateways.perform", hostile)
        world.run(clearing)

        assert clearing.state == State.UNKNOWN
        assert Attempt.objects.get().detail == "a\ufffdb"

    def test_a_retry_after_of_weeks_is_capped(self) -> None:
        assert Backoff(200, 30_000).delay_ms(1, retry_after_ms=10**18) == RETRY_AFTER_MS_MAX

    def test_amounts_beyond_an_assets_scale_are_cut_and_park_the_order(self, world: World) -> None:
        order = claimed(world, world.accept()).order
        part = Exchanged("x", 1, "USDT", Decimal(3000), "BTC", Decimal("0.049123456789123"), Decimal(60_000), Decimal(1))

        following = after(CURRENT_FLOW, order, 3, [part])

        assert isinstance(following, Planned)
        assert b'"amount":"0.04912345"' in following.request
        assert following.parks == "implausible_fill"

    def test_a_minimum_lot_that_makes_most_of_an_order_dust_parks_it(self, world: World) -> None:
        order = claimed(world, world.accept()).order
        part = Exchanged("x", 1, "USDT", Decimal(2000), "BTC", Decimal("0.03333333"), Decimal(60_000), Decimal(999_999))

        assert getattr(after(CURRENT_FLOW, order, 3, [part]), "code", "") == "partial_execution"

    def test_a_rejection_after_a_lost_answer_is_final_only_when_the_key_says_so(self, world: World) -> None:
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.RESET))
        world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.STATUS, status=400, code="invalid_request"))
        clearing = world.run(world.accept())

        world.when_due(clearing)
        retry_by_hand(clearing.pk, actor="ann", reason="again")
        world.run(clearing)

        assert clearing.state == State.CLEARED
        assert world.keys_applied(clearing) == ["1", "2", "3", "4"]
        assert (1, "rejected", "invalid_request") in outcomes(clearing)
