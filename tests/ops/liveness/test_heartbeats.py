"""Who is dead: only who was silent while somebody looked on."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from base.clock import shift_clock
from base.incarnation import Life
from base.models import Incarnation
from clearing.dispatch import broker
from clearing.models import Attempt, Clearing
from clearing.status import State
from clearing.store import claims
from ops.liveness import heartbeats
from ops.liveness.heartbeats import Watch
from ops.recovery.sweep import sweep
from tests.support.orders import World

NO_HEART = threading.Thread()  # stands where the beating thread would, so that the test beats by hand, in its own transaction
BEAT = datetime(2026, 1, 1, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return BEAT + timedelta(seconds=seconds)


class TestWatch:
    def test_one_that_beats_is_alive(self) -> None:
        watch = Watch(unseen_seconds=12)

        assert not any(watch.dead({"w": later(second)}, now=second) for second in range(20))

    def test_one_that_was_seen_alive_is_dead_after_three_seconds_of_silence(self) -> None:
        watch = Watch(unseen_seconds=12)
        watch.dead({"w": BEAT}, now=0)
        watch.dead({"w": later(1)}, now=1)

        found = [watch.dead({"w": later(1)}, now=second) for second in (2, 3, 4)]

        assert found == [[], [], ["w"]]

    def test_one_that_is_missing_at_zookeeper_may_be_late_with_its_second_beat(self) -> None:
        watch = Watch(unseen_seconds=12)
        watch.dead({"w": BEAT}, now=0)
        watch.dead({"w": later(1)}, now=1.01)

        found = [watch.dead({"w": later(1)}, now, missing={"w"}) for now in (2.0, 3.0, 3.45, 3.55)]

        assert found == [[], [], [], ["w"]]

    def test_one_that_was_never_seen_alive_has_a_claims_length(self) -> None:
        watch = Watch(unseen_seconds=12)

        found = [bool(watch.dead({"w": BEAT}, now=second)) for second in range(14)]

        assert found.index(True) == 12

    def test_one_that_appeared_between_two_looks_was_alive_then(self) -> None:
        watch = Watch(unseen_seconds=12)
        watch.dead({}, now=0)

        found = [watch.dead({"w": BEAT}, now=second) for second in (1, 2, 3, 4)]

        assert found == [[], [], [], ["w"]]

    def test_one_that_appeared_while_nobody_could_look_has_its_silence_still_to_come(self) -> None:
        """As after an outage of PostgreSQL, or a pause of this machine."""
        watch = Watch(unseen_seconds=12)
        watch.dead({}, now=0)

        assert watch.dead({"w": BEAT}, now=600) == []
        assert watch.dead({"w": BEAT}, now=602) == []

    def test_a_gap_of_the_watchers_own_counts_for_little(self) -> None:
        watch = Watch(unseen_seconds=12)
        watch.dead({"w": BEAT}, now=0)
        watch.dead({"w": later(1)}, now=1)

        assert watch.dead({"w": later(1)}, now=60) == []
        assert watch.dead({"w": later(60)}, now=61) == []

    def test_after_an_outage_nobody_is_dead_before_a_claims_length(self) -> None:
        watch = Watch(unseen_seconds=12)
        for second in range(5):
            watch.dead({"w": later(second)}, now=second)
        watch.dead({"w": later(4)}, now=5)
        watch.dead({"w": later(4)}, now=6)

        found = [bool(watch.dead({"w": later(4)}, now=26 + second, missing=["v"])) for second in range(14)]

        assert found.index(True) == 12

    def test_a_beat_of_just_before_an_outage_does_not_count_as_one_after_it(self) -> None:
        watch = Watch(unseen_seconds=12)
        for second in range(5):
            watch.dead({"w": later(second)}, now=second)

        found = [bool(watch.dead({"w": later(4.1)}, now=14 + second)) for second in range(14)]

        assert found.index(True) == 12

    def test_whoever_beats_again_after_an_outage_is_seen_alive(self) -> None:
        watch = Watch(unseen_seconds=12)
        watch.dead({"w": BEAT}, now=0)
        watch.dead({"w": BEAT}, now=20)
        watch.dead({"w": later(21)}, now=21)

        found = [watch.dead({"w": later(21)}, now=second) for second in (22, 23, 24)]

        assert found == [[], [], ["w"]]

    def test_passes_that_are_always_slow_find_the_dead_all_the_same(self) -> None:
        watch = Watch(unseen_seconds=12)
        watch.dead({"w": BEAT}, now=0)

        assert any(watch.dead({"w": BEAT}, now=second) for second in range(2, 30, 2))

    def test_a_clock_that_jumps_back_kills_nobody(self) -> None:
        watch = Watch(unseen_seconds=12)
        watch.dead({"w": BEAT}, now=100)

        assert watch.dead({"w": BEAT}, now=0) == []


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    broker.client().flushdb()
    monkeypatch.setattr(heartbeats, "watch", Watch(unseen_seconds=0))
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
        assert (counts["buried"], counts["was_running"], clearing.state) == (1, 1, State.QUEUED)
        assert Incarnation.objects.get().end == "dead"

    def test_those_of_the_living_are_left_alone(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeats, "watch", Watch(unseen_seconds=12))
        Incarnation.objects.create(name="slow-worker", role="worker", host="h", pid=1, version="1")
        clearing = claimed_by("slow-worker", world)

        sweep()

        clearing.refresh_from_db()
        assert clearing.state == State.RUNNING

    def test_one_that_beat_in_the_meantime_is_not_buried(self, world: World) -> None:
        Incarnation.objects.create(name="w", role="worker", host="h", pid=1, version="1")
        beats = heartbeats.living()
        Incarnation.objects.update(beat_at=later(0))

        assert not heartbeats.bury("w", beats["w"])


class TestLife:
    def test_a_process_that_was_declared_dead_wakes_under_a_new_name(self, world: World) -> None:
        life = Life("worker")
        life._heart = NO_HEART
        old = life.name
        heartbeats.bury(old, heartbeats.living()[old])

        life.beat()

        assert life.name != old
        assert list(heartbeats.living()) == [life.name]

    def test_nobody_claims_under_a_buried_name(self, world: World) -> None:
        life = Life("worker")
        life._heart = NO_HEART
        old = life.name
        heartbeats.bury(old, heartbeats.living()[old])
        clearing = world.accept()

        assert claims.claim(clearing.pk, clearing.epoch, worker=lambda: old, gives_up=lambda: True) is None
        clearing.refresh_from_db()
        assert clearing.state == State.QUEUED

    def test_a_worker_that_wakes_claims_at_once_under_its_new_name(self, world: World) -> None:
        life = Life("worker")
        life._heart = NO_HEART
        old = life.name
        heartbeats.bury(old, heartbeats.living()[old])
        clearing = world.accept()

        replace(world.runner(), worker=lambda: life.name, outlived=life.outlived).run(clearing.pk, clearing.epoch)

        clearing.refresh_from_db()
        assert clearing.state == State.CLEARED
        assert set(Attempt.objects.values_list("worker", flat=True)) == {life.name} != {old}

    def test_a_process_that_stops_gives_its_claims_back_at_once(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeats, "watch", Watch(unseen_seconds=12))
        life = Life("worker")
        life._heart = NO_HEART
        clearing = claimed_by(life.name, world)
        life.end()

        sweep()

        clearing.refresh_from_db()
        assert clearing.state == State.QUEUED

    def test_a_beat_moves_on(self, world: World) -> None:
        life = Life("worker")
        life._heart = NO_HEART
        name = life.name
        before = heartbeats.living()[name]

        life.beat()

        assert heartbeats.living()[name] > before
