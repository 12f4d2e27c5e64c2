"""The sweep: what was interrupted runs again, and nothing is sent twice for being slow."""

import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings

from base.clock import ServiceNow, shift_clock
from base.models import Incarnation
from clearing.dispatch import broker, publish
from clearing.dispatch.queues import RESUME_QUEUE, lane_queue
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Attempt, Clearing
from clearing.status import State
from clearing.store import claims, recovery
from clearing.store.lanes import lane_of
from ops.recovery.sweep import sweep
from tests.support.orders import World
from tests.support.states import any_transition, rewritable


@pytest.fixture
def world(db: None) -> Iterator[World]:
    broker.client().flushdb()
    broker.read_generation()
    yield World()
    shift_clock(0)


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    raised: list[dict[str, object]] = []
    monkeypatch.setattr("ops.recovery.sweep.alarm", lambda code, _message, **context: raised.append({"code": code, **context}))
    return raised


def published(world: World, user_id: str = "1001") -> Clearing:
    clearing, refs = world.accept_with_refs(user_id)
    assert publish.publish(refs)
    return clearing


def messages(clearing: Clearing) -> int:
    return broker.length(lane_queue(clearing.lane))


class TestGoneMessages:
    def test_a_clearing_that_was_never_published_is_sent(self, world: World) -> None:
        clearing = world.accept()
        shift_clock(3)

        counts = sweep()

        assert (counts["sent_again"], messages(clearing)) == (1, 1)

    def test_it_has_its_two_seconds(self, world: World) -> None:
        clearing = world.accept()

        counts = sweep()

        assert (counts["sent_again"], messages(clearing)) == (0, 0)

    def test_a_wiped_broker_is_noticed_at_once(self, world: World) -> None:
        clearing = published(world)
        broker.client().flushdb()

        counts = sweep()

        assert (counts["sent_again"], messages(clearing)) == (1, 1)

    def test_a_wiped_brokers_messages_are_not_taken_for_a_backlog_behind_what_was_sent_since(self, world: World) -> None:
        clearing = published(world)
        broker.client().flushdb()
        since = published(world, next(str(user) for user in range(2000, 3000) if lane_of(str(user)) == clearing.lane))

        counts = sweep()

        assert (counts["sent_again"], messages(since)) == (2, 3)  # the one from after the wipe, too: nobody knew of the wipe yet

    def test_a_long_backlog_is_not_sent_again(self, world: World) -> None:
        clearings = [published(world, str(user)) for user in range(40)]
        shift_clock(600)

        counts = sweep()

        assert counts["sent_again"] == 0
        assert sum(messages(clearing) for clearing in {c.lane: c for c in clearings}.values()) == 40

    def test_a_message_that_its_queue_is_past_is_gone(self, world: World) -> None:
        gone = world.accept("1001")
        shift_clock(1)
        other = next(str(user) for user in range(2000, 3000) if lane_of(str(user)) == gone.lane)
        published(world, other)
        shift_clock(3)

        counts = sweep()

        assert counts["sent_again"] == 1

    def test_repeats_are_spaced_further_apart(self, world: World) -> None:
        clearing = world.accept()
        shift_clock(3)
        sweep()
        broker.client().delete(lane_queue(clearing.lane))
        shift_clock(6)

        assert sweep()["sent_again"] == 0
        shift_clock(8)
        assert sweep()["sent_again"] == 1

    def test_the_epoch_stays_so_that_either_message_serves(self, world: World) -> None:
        clearing = world.accept()
        shift_clock(3)
        sweep()
        shift_clock(0)

        world.run(clearing)

        assert (clearing.state, clearing.epoch) == (State.CLEARED, 1)

    def test_a_lane_that_no_longer_exists_goes_to_the_resume_queue(self, world: World, settings: Settings) -> None:
        clearing = published(world)
        settings.CLEARING_LANES = clearing.lane
        shift_clock(3)

        sweep()

        assert broker.length(RESUME_QUEUE) == 1


class TestInterrupted:
    def test_an_expired_claim_goes_to_the_resume_queue(self, world: World) -> None:
        clearing = published(world)
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead", gives_up=lambda: True)
        shift_clock(60)

        counts = sweep()

        clearing.refresh_from_db()
        assert counts["was_running"] == 1
        assert (clearing.state, clearing.epoch, broker.length(RESUME_QUEUE)) == (State.QUEUED, 2, 1)

    def test_a_stalled_lane_is_promoted(self, world: World) -> None:
        world.run(world.accept())
        stalled = world.accept()
        with any_transition():
            Clearing.objects.filter(pk=stalled.pk).update(state=State.WAITING)

        counts = sweep()

        stalled.refresh_from_db()
        assert (counts["stalled"], stalled.state) == (1, State.QUEUED)

    def test_with_nothing_to_do_it_does_nothing(self, world: World) -> None:
        world.run(world.accept())

        assert not any(sweep().values())


class TestOthersGoOn:
    def test_a_lane_that_nobody_drains_hides_no_other(self, world: World, settings: Settings) -> None:
        settings.SWEEP_ROWS_MAX = 3
        crowded = lane_of("1")
        for user in (str(number) for number in range(1, 400)):
            if lane_of(user) == crowded:
                published(world, user)
        lost = world.accept(next(str(number) for number in range(1, 400) if lane_of(str(number)) != crowded))
        shift_clock(60)

        sweep()

        assert messages(lost) == 1

    @pytest.mark.django_db(transaction=True)
    def test_a_row_that_the_database_refuses_stops_no_other(self) -> None:
        world = World()
        bad, good = published(world, "1"), published(world, "2")
        for clearing in (bad, good):
            claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead", gives_up=lambda: True)
        with rewritable():
            Attempt.objects.all().delete()
        bad.operations.all().delete()
        shift_clock(60)

        counts = sweep()
        shift_clock(0)

        good.refresh_from_db()
        assert (counts["was_running"], good.state) == (1, State.QUEUED)

    @pytest.mark.django_db(transaction=True)
    def test_a_connection_that_was_closed_stops_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """django.db.InterfaceError, which is no DatabaseError."""
        world = World()
        orphan = published(world)
        claims.claim(orphan.pk, orphan.epoch, worker=lambda: "dead", gives_up=lambda: True)
        Incarnation.objects.create(name="dead", role="worker", host="h", pid=1, version="1", ended_at=ServiceNow(), end="dead")
        requeue, closed = recovery.requeue, iter([True])

        def closed_once(*arguments: Any, **options: Any) -> object:
            if next(closed, False):
                connection.connection.close()
            return requeue(*arguments, **options)

        monkeypatch.setattr(recovery, "requeue", closed_once)

        assert sweep()["was_running"] == 1

    def test_a_stage_that_fails_stops_no_other(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clearing = world.accept()
        monkeypatch.setattr(recovery, "orphaned", lambda _: 1 / 0)
        shift_clock(3)

        with pytest.raises(ZeroDivisionError):
            sweep()

        assert messages(clearing) == 1


class TestTheBoundOfAMinute:
    def test_is_told_of_once_and_delays_what_is_new(self, world: World, alarms: list[dict[str, object]], settings: Settings) -> None:
        settings.CLEARING_USDT_PER_MINUTE_MAX = Decimal(2_000)
        sweep()
        assert world.run(world.accept()).state == State.CLEARED

        counts = []
        for seconds in (1, 2, 63):
            shift_clock(seconds)
            counts.append(sweep())

        assert [(count["minute_paused"], count["minute_resumed"]) for count in counts] == [(1, 0), (0, 0), (0, 1)]
        assert alarms == [{"code": "usdt_per_minute_exceeded", "usdt": 3_000, "bound": 2_000}]


class TestReminders:
    """An order that waits for a person raises its alarm again and again."""

    def parked(self, world: World, user_id: str, direction: str = "OPEN") -> Clearing:
        clearing = world.accept(user_id, direction=direction)
        claims.hold(clearing.order.order_id, "contents_differ", actor="test", generation="")
        return clearing

    def test_only_after_the_setting_s_time_and_then_at_its_interval(self, world: World, alarms: list[dict[str, object]], settings: Settings) -> None:
        clearing = self.parked(world, "1")
        counts = []

        for seconds in (settings.PARKED_REMINDER_SECONDS + at for at in (-60, 1, 60, settings.PARKED_REMINDER_SECONDS + 2)):
            shift_clock(seconds)
            counts.append(sweep()["reminded"])

        assert counts == [0, 1, 0, 1]
        assert {(raised["code"], raised["order_id"], raised["error_code"]) for raised in alarms} == {
            ("parked", clearing.order.order_id, "contents_differ")
        }
        assert alarms[0]["waiting_seconds"] == pytest.approx(settings.PARKED_REMINDER_SECONDS + 1, abs=5)

    def test_a_close_comes_first(self, world: World, alarms: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ops.recovery.sweep.REMINDED_ROWS_MAX", 2)
        self.parked(world, "1")
        self.parked(world, "2")
        self.parked(world, "3", "CLOSE")
        shift_clock(3_600)

        sweep()
        sweep()

        assert [raised["direction"] for raised in alarms] == ["CLOSE", "OPEN", "OPEN"]

    def test_so_does_what_a_close_waits_behind(self, world: World, alarms: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ops.recovery.sweep.REMINDED_ROWS_MAX", 1)
        self.parked(world, "1")
        opened = self.parked(world, "2")
        world.accept("2", direction="CLOSE", contract_id=opened.contract_id)
        shift_clock(3_600)

        sweep()

        assert [raised["order_id"] for raised in alarms] == [opened.order.order_id]

    def test_one_that_was_retried_and_parks_anew_has_its_time_again(self, world: World, alarms: list[dict[str, object]]) -> None:
        clearing = self.parked(world, "1")
        shift_clock(3_600)
        sweep()
        Clearing.objects.filter(pk=clearing.pk).update(changed_at=ServiceNow())
        shift_clock(3_600 + 1_700)
        Clearing.objects.filter(pk=clearing.pk).update(changed_at=ServiceNow())

        assert sweep()["reminded"] == 0

    def test_what_goes_on_is_not_reminded_of(self, world: World, alarms: list[dict[str, object]]) -> None:
        world.accept("1")
        shift_clock(3_600)

        assert sweep()["reminded"] == 0


class TestUnknownForLong:
    """An order that nobody knows about never parks: people hear of it all the same."""

    @pytest.fixture(autouse=True)
    def nothing_is_due(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ops.recovery.sweep._queue_due", lambda *_: Counter())

    def unknown(self, world: World, user_id: str, kind: FaultKind = FaultKind.GARBAGE, direction: str = "OPEN", seconds_ago: int = 7_200) -> Clearing:
        world.counterparties.script(Action.ADJUST, Fault(kind=kind))
        return world.run(world.accept(user_id, direction=direction, created_ms=int(time.time() - seconds_ago) * 1000))

    @pytest.mark.parametrize(("kind", "state"), [(FaultKind.GARBAGE, "unknown"), (FaultKind.IN_PROGRESS, "pending")])
    def test_raises_its_alarm_after_the_setting_s_time_and_then_at_its_interval(
        self, world: World, alarms: list[dict[str, object]], settings: Settings, kind: FaultKind, state: str
    ) -> None:
        clearing = self.unknown(world, "1", kind)
        counts = []

        for seconds in (settings.PARKED_REMINDER_SECONDS + at for at in (-60, 1, 60, settings.PARKED_REMINDER_SECONDS + 2)):
            shift_clock(seconds)
            counts.append(sweep()["reminded_unknown"])

        assert counts == [0, 1, 0, 1]
        assert {(raised["code"], raised["order_id"], raised["counterparty"], raised["step"], raised["state"]) for raised in alarms} == {
            ("outcome_unknown", clearing.order.order_id, "counter", 1, state)
        }
        assert alarms[0]["unknown_seconds"] == pytest.approx(settings.PARKED_REMINDER_SECONDS + 1, abs=5)

    def test_a_close_comes_first(self, world: World, alarms: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ops.recovery.sweep.REMINDED_ROWS_MAX", 1)
        self.unknown(world, "1")
        self.unknown(world, "2", direction="CLOSE")
        shift_clock(3_600)

        sweep()
        sweep()

        assert [raised["direction"] for raised in alarms] == ["CLOSE", "OPEN"]

    def test_one_that_the_counter_dated_in_the_future_counts_from_its_first_sending(self, world: World, alarms: list[dict[str, object]]) -> None:
        self.unknown(world, "1", seconds_ago=-70 * 365 * 86_400)
        shift_clock(60)
        early = sweep()["reminded_unknown"]
        shift_clock(3_600)

        assert (early, sweep()["reminded_unknown"]) == (0, 1)

    def test_one_that_became_known_is_left_alone(self, world: World, alarms: list[dict[str, object]]) -> None:
        clearing = self.unknown(world, "1")
        world.when_due(clearing)
        assert clearing.state == State.CLEARED
        shift_clock(7_200)

        assert sweep()["reminded_unknown"] == 0
