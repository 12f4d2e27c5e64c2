"""Between the sweeps, too, somebody looks whether a process has died."""

import threading
from collections.abc import Iterator

import pytest

from base.clock import shift_clock
from base.fence import TermOutdated
from base.models import Incarnation
from clearing.dispatch import broker
from clearing.models import Clearing
from clearing.status import State
from clearing.store import claims
from ops import tasks
from ops.liveness import heartbeats, watcher
from ops.liveness.heartbeats import HeartbeatMonitor
from ops.liveness.watcher import Watcher, look
from ops.recovery import sweep as sweeping
from tests.support.orders import World
from tests.support.waiting import wait_until


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    broker.client().flushdb()
    monkeypatch.setattr(heartbeats, "monitor", HeartbeatMonitor(unseen_seconds=0))
    yield World()
    shift_clock(0)


def nothing() -> None:
    """The sweep of somebody who only looks."""


class TestLook:
    def test_a_death_is_swept_up_at_once(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [0.0]
        for module in (watcher, sweeping):
            monkeypatch.setattr(module, "monotonic", lambda: clock[0])
        monkeypatch.setattr(heartbeats, "monitor", HeartbeatMonitor(unseen_seconds=3.0))
        Incarnation.objects.create(name="dead-worker", role="worker", host="h", pid=1, version="1")
        clearing = world.accept()
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead-worker", gives_up=lambda: True)

        for clock[0] in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5):
            look(tasks.sweep_now)
        assert Clearing.objects.get().state == State.RUNNING
        clock[0] = 3.0
        look(tasks.sweep_now)

        assert Clearing.objects.get().state == State.QUEUED

    def test_nobody_sweeps_where_nobody_died(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeats, "monitor", HeartbeatMonitor(unseen_seconds=60.0))
        Incarnation.objects.create(name="worker", role="worker", host="h", pid=1, version="1")
        swept: list[bool] = []

        look(lambda: swept.append(True))

        assert not swept

    def test_looking_writes_nothing(self, world: World) -> None:
        Incarnation.objects.create(name="dead-worker", role="worker", host="h", pid=1, version="1")

        look(nothing)

        assert Incarnation.objects.get().ended_at is None

    def test_a_database_that_is_away_ends_nothing(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[bool] = []

        def unavailable() -> None:
            asked.append(True)
            raise ConnectionError

        monkeypatch.setattr(heartbeats, "living", unavailable)

        look(nothing)

        assert asked == [True]

    def test_a_sweep_that_fails_ends_no_looking(self, world: World) -> None:
        Incarnation.objects.create(name="dead-worker", role="worker", host="h", pid=1, version="1")

        swept: list[bool] = []

        def fails() -> None:
            swept.append(True)
            raise TermOutdated

        look(fails)

        assert swept == [True]


class TestWatcher:
    def test_every_process_that_sweeps_looks_on(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        started: list[object] = []
        monkeypatch.setattr(watcher.watcher, "start", started.append)

        tasks.sweep()

        assert started == [tasks.sweep_now]

    def test_one_thread_a_process_that_looks_again_and_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looked, over = threading.Semaphore(0), threading.Event()
        before = watchers()

        def count(_sweep: object) -> None:
            looked.release()
            if over.is_set():
                threading.Event().wait()  # a daemon: it ends with the tests

        monkeypatch.setattr(watcher, "HEARTBEAT_POLL_SECONDS", 0.01)
        monkeypatch.setattr(watcher, "look", count)
        ours = Watcher()

        ours.start(nothing)
        ours.start(nothing)

        assert all(looked.acquire(timeout=10) for _ in range(3))
        assert len(watchers() - before) == 1
        over.set()
        assert looked.acquire(timeout=10)

    def test_looks_on_while_a_sweep_is_in_progress(self) -> None:
        begun, over = threading.Semaphore(0), threading.Event()

        def slow() -> None:
            begun.release()
            over.wait(60)

        begin = Watcher()._sweep_beside(slow)

        begin()
        begin()

        assert begun.acquire(timeout=20)
        over.set()
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "watcher-sweep"])
        assert not begun.acquire(blocking=False)  # one at a time
        begin()
        assert begun.acquire(timeout=20)


def watchers() -> set[threading.Thread]:
    """The looking threads of this process; those of other tests go on with it."""
    return {thread for thread in threading.enumerate() if thread.name == "watcher"}
