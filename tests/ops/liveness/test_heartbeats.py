"""Who is dead: only who was silent while somebody looked on."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from base.clock import shift_clock
from base.incarnation import Registration
from base.models import Incarnation
from clearing.dispatch import broker
from clearing.models import Attempt, Clearing
from clearing.status import State
from clearing.store import claims
from ops.liveness import heartbeats
from ops.liveness.heartbeats import HeartbeatMonitor
from ops.recovery.sweep import sweep
from tests.support.orders import World

NO_HEART = threading.Thread()  # stands where the beating thread would, so that the test beats by hand, in its own transaction
BEAT = datetime(2026, 1, 1, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return BEAT + timedelta(seconds=seconds)


class TestHeartbeatMonitor:
    def test_one_that_beats_is_alive(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)

        assert not any(monitor.dead({"w": later(second)}, now=second) for second in range(20))

    def test_one_that_was_seen_alive_is_dead_after_three_seconds_of_silence(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({"w": BEAT}, now=0)
        monitor.dead({"w": later(1)}, now=1)

        found = [monitor.dead({"w": later(1)}, now=second) for second in (2, 3, 4)]

        assert found == [[], [], ["w"]]

    def test_one_that_is_missing_at_zookeeper_may_be_late_with_its_second_beat(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({"w": BEAT}, now=0)
        monitor.dead({"w": later(1)}, now=1.01)

        found = [monitor.dead({"w": later(1)}, now, missing={"w"}) for now in (2.0, 3.0, 3.45, 3.55)]

        assert found == [[], [], [], ["w"]]

    def test_one_that_was_never_seen_alive_has_a_claims_length(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)

        found = [bool(monitor.dead({"w": BEAT}, now=second)) for second in range(14)]

        assert found.index(True) == 12

    def test_one_that_appeared_between_two_looks_was_alive_then(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({}, now=0)

        found = [monitor.dead({"w": BEAT}, now=second) for second in (1, 2, 3, 4)]

        assert found == [[], [], [], ["w"]]

    def test_one_that_appeared_while_nobody_could_look_has_its_silence_still_to_come(self) -> None:
        """As after an outage of PostgreSQL, or a pause of this machine."""
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({}, now=0)

        assert monitor.dead({"w": BEAT}, now=600) == []
        assert monitor.dead({"w": BEAT}, now=602) == []

    def test_a_gap_of_the_watchers_own_counts_for_little(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({"w": BEAT}, now=0)
        monitor.dead({"w": later(1)}, now=1)

        assert monitor.dead({"w": later(1)}, now=60) == []
        assert monitor.dead({"w": later(60)}, now=61) == []

    def test_after_an_outage_nobody_is_dead_before_a_claims_length(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        for second in range(5):
            monitor.dead({"w": later(second)}, now=second)
        monitor.dead({"w": later(4)}, now=5)
        monitor.dead({"w": later(4)}, now=6)

        found = [bool(monitor.dead({"w": later(4)}, now=26 + second, missing=["v"])) for second in range(14)]

        assert found.index(True) == 12

    def test_a_beat_of_just_before_an_outage_does_not_count_as_one_after_it(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        for second in range(5):
            monitor.dead({"w": later(second)}, now=second)

        found = [bool(monitor.dead({"w": later(4.1)}, now=14 + second)) for second in range(14)]

        assert found.index(True) == 12

    def test_whoever_beats_again_after_an_outage_is_seen_alive(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({"w": BEAT}, now=0)
        monitor.dead({"w": BEAT}, now=20)
        monitor.dead({"w": later(21)}, now=21)

        found = [monitor.dead({"w": later(21)}, now=second) for second in (22, 23, 24)]

        assert found == [[], [], ["w"]]

    def test_passes_that_are_always_slow_find_the_dead_all_the_same(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({"w": BEAT}, now=0)

        assert any(monitor.dead({"w": BEAT}, now=second) for second in range(2, 30, 2))

    def test_a_clock_that_jumps_back_kills_nobody(self) -> None:
        monitor = HeartbeatMonitor(unseen_seconds=12)
        monitor.dead({"w": BEAT}, now=100)

        assert monitor.dead({"w": BEAT}, now=0) == []


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    broker.client().flushdb()
    monkeypatch.setattr(heartbeats, "monitor", HeartbeatMonitor(unseen_seconds=0))
    yield World()
    shift_clock(0)


def claimed_by(name: str, world: World) -> Clearing:
    clearing = world.accept()
    assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: name, gives_up=lambda: True)
    return clearing


class TestTheDead:
    def test_their_claims_are_taken_back_before_they_expire(self, world: World) -> None:
        Incarnation.objects.create(name="dead-worker", role="worker", host="h", pid=1, version="1")
        clearing = claimed_by("dead-worker", world)

        counts = sweep()

        clearing.refresh_from_db()
        assert (counts["marked_dead"], counts["was_running"], clearing.state) == (1, 1, State.QUEUED)
        assert Incarnation.objects.get().end == "dead"

    def test_those_of_the_living_are_left_alone(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeats, "monitor", HeartbeatMonitor(unseen_seconds=12))
        Incarnation.objects.create(name="slow-worker", role="worker", host="h", pid=1, version="1")
        clearing = claimed_by("slow-worker", world)

        sweep()

        clearing.refresh_from_db()
        assert clearing.state == State.RUNNING

    def test_one_that_beat_in_the_meantime_is_not_marked_dead(self, world: World) -> None:
        Incarnation.objects.create(name="w", role="worker", host="h", pid=1, version="1")
        beats = heartbeats.living()
        Incarnation.objects.update(beat_at=later(0))

        assert not heartbeats.mark_dead("w", beats["w"])


class TestRegistration:
    def test_a_process_that_was_declared_dead_wakes_under_a_new_name(self, world: World) -> None:
        registration = Registration("worker")
        registration._heartbeat = NO_HEART
        old = registration.name
        heartbeats.mark_dead(old, heartbeats.living()[old])

        registration.beat()

        assert registration.name != old
        assert list(heartbeats.living()) == [registration.name]

    def test_nobody_claims_under_a_dead_name(self, world: World) -> None:
        registration = Registration("worker")
        registration._heartbeat = NO_HEART
        old = registration.name
        heartbeats.mark_dead(old, heartbeats.living()[old])
        clearing = world.accept()

        assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: old, gives_up=lambda: True) is None
        clearing.refresh_from_db()
        assert clearing.state == State.QUEUED

    def test_a_worker_that_wakes_claims_at_once_under_its_new_name(self, world: World) -> None:
        registration = Registration("worker")
        registration._heartbeat = NO_HEART
        old = registration.name
        heartbeats.mark_dead(old, heartbeats.living()[old])
        clearing = world.accept()

        replace(world.runner(), worker=lambda: registration.name, outlived=registration.outlived).run(clearing.pk, clearing.epoch)

        clearing.refresh_from_db()
        assert clearing.state == State.CLEARED
        assert set(Attempt.objects.values_list("worker", flat=True)) == {registration.name} != {old}

    def test_a_process_that_stops_gives_its_claims_back_at_once(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeats, "monitor", HeartbeatMonitor(unseen_seconds=12))
        registration = Registration("worker")
        registration._heartbeat = NO_HEART
        clearing = claimed_by(registration.name, world)
        registration.end()

        sweep()

        clearing.refresh_from_db()
        assert clearing.state == State.QUEUED

    def test_a_beat_moves_on(self, world: World) -> None:
        registration = Registration("worker")
        registration._heartbeat = NO_HEART
        name = registration.name
        before = heartbeats.living()[name]

        registration.beat()

        assert heartbeats.living()[name] > before
