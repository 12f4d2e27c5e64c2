"""Periodic jobs: each writes under the term that its message carries, and an outdated one writes
nothing.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.request import Request
from django.db import connection

from acceptance_site.celery import app
from base import metrics
from base.clock import ServiceNow, shift_clock
from base.fence import Fence, TermOutdated, fence_of, fenced
from base.models import Incarnation, LeaderTerm
from clearing.dispatch import broker
from clearing.dispatch.queues import OPS_QUEUE
from clearing.gateways import Counterparty, Retryable, StoredRequest, counterparty_state
from clearing.models import Clearing, CounterpartyState, StatusChange
from clearing.policy.outcomes import Health
from clearing.status import Breaker, State
from clearing.store import claims
from ops import tasks, wiring
from ops.jobs import run
from ops.jobs.exclusive import exclusive
from ops.jobs.run import run_job
from ops.liveness import heartbeats
from ops.recovery import probe, sweep
from orders.backfill.counter_api import Shards
from orders.backfill.gap_pass import GapPass
from orders.backfill.reconcile import Reconcile
from orders.intake.result import IngestResult
from orders.models import Quarantined, ReconcileRun, SyncOrder, Watermark
from tests.orders.fakes import FakeClearings
from tests.orders.messages import RULES
from tests.support.counter import OVERLAP, Counter
from tests.support.orders import World
from tests.support.states import any_transition
from tests.support.waiting import wait_until

CURRENT = 7


@pytest.fixture
def world(transactional_db: None) -> Iterator[World]:
    broker.client().flushdb()
    broker.read_generation()
    LeaderTerm.objects.create(term=CURRENT, leader="now")
    yield World()
    shift_clock(0)


def counted(job: str, result: str) -> float:
    return metrics.REGISTRY.get_sample_value("acceptance_jobs_total", {"job": job, "result": result}) or 0.0


class TestTerm:
    @pytest.fixture(autouse=True)
    def led(self, world: World) -> None:
        """Term 7 is the current one."""

    def ran(self, term: int | None) -> list[str]:
        done: list[str] = []

        def job(fence: Fence) -> bool:
            with fenced(fence):
                done.append("written")
            return True

        run_job("ops.test", job, term)
        return done

    def test_of_the_message_is_the_one_that_it_writes_under(self) -> None:
        assert self.ran(CURRENT) == ["written"]

    @pytest.mark.parametrize("term", [CURRENT - 1, CURRENT + 1])
    def test_that_is_not_the_current_one_ends_the_job_and_is_counted(self, term: int) -> None:
        before = counted("ops.test", "outdated")

        assert self.ran(term) == []
        assert counted("ops.test", "outdated") == before + 1

    def test_a_job_of_the_release_before_runs_under_the_current_one(self) -> None:
        assert self.ran(None) == ["written"]

    def test_a_mistake_is_counted_and_raised(self) -> None:
        before = counted("ops.test", "failed")

        def wrong(_: Fence) -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run_job("ops.test", wrong, CURRENT)
        assert counted("ops.test", "failed") == before + 1

    def test_travels_in_a_header_that_a_worker_hands_to_the_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[object] = []
        monkeypatch.setattr(run, "run_job", lambda *given: seen.append((given[0], given[2])))

        for headers in ({run.TERM_HEADER: CURRENT}, None):
            tasks.sweep.apply_async(headers=headers)
            with app.connection_for_read() as broker_connection:
                message = broker_connection.SimpleQueue(OPS_QUEUE).get(timeout=5)
                message.ack()
            Request(message, app=app, task=tasks.sweep, headers=message.headers, body=message.body, decoded=False).execute()

        assert seen == [("ops.sweep", CURRENT), ("ops.sweep", None)]


def everything() -> list[Any]:
    """All rows that a periodic job could have written."""
    models = (Clearing, StatusChange, SyncOrder, Quarantined, Watermark, ReconcileRun, Incarnation)
    return [list(model.objects.order_by("pk").values()) for model in models]


@dataclass
class Interrupted:
    """What a sweep would do, of each kind."""

    world: World

    def silent_worker(self) -> None:
        Incarnation.objects.create(name="w", role="worker", host="h", pid=1, version="1")

    def expired_claim(self) -> None:
        clearing = self.world.accept("1")
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "w", gives_up=lambda: True)
        shift_clock(60)

    def lost_message(self) -> None:
        self.world.accept("2")
        shift_clock(60)

    def stalled_lane(self) -> None:
        first = self.world.accept("3")
        self.world.accept("3")
        with any_transition():
            Clearing.objects.filter(pk=first.pk).update(state=State.CLEARED, cleared_at=ServiceNow())


class AlwaysDead(heartbeats.HeartbeatMonitor):
    """Everybody has been silent for long."""

    def dead(self, beats: Any, now: float, missing: Any = ()) -> list[str]:
        return list(beats)


class TestSweep:
    @pytest.mark.parametrize("kind", ["silent_worker", "expired_claim", "lost_message", "stalled_lane"])
    def test_of_an_old_term_leaves_everything_as_it_is(self, kind: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(heartbeats, "monitor", AlwaysDead(unseen_seconds=1.0))
        getattr(Interrupted(world), kind)()
        before = everything()

        with pytest.raises(TermOutdated):
            sweep.sweep(fence_of(CURRENT - 1))
        left = everything()
        sweep.sweep(fence_of(CURRENT))

        assert left == before
        assert everything() != before

    @pytest.mark.parametrize("stage", [sweep._expire, sweep._remind, sweep._remind_unknown])
    def test_of_an_old_term_neither_expires_nor_reminds(self, stage: Callable[[str, Fence], object], world: World) -> None:
        with pytest.raises(TermOutdated):
            stage("", fence_of(CURRENT - 1))

    def test_is_left_out_while_another_runs(self, world: World) -> None:
        with another_session() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [sweep.SWEEP_LOCK])
            before = counted("ops.sweep", "busy")

            tasks.sweep()

            assert counted("ops.sweep", "busy") == before + 1

    def test_one_that_is_frozen_keeps_the_others_waiting_for_a_while_only(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        with another_session() as cursor:
            cursor.execute("SET idle_session_timeout = 300")
            cursor.execute("SELECT pg_advisory_lock(%s)", [sweep.SWEEP_LOCK])
            wait_until(lambda: sweep.sweep_exclusively(fence_of(CURRENT)) is not None)

    def test_holds_its_session_to_a_limit_while_it_runs_and_no_longer(self, world: World) -> None:
        with exclusive(sweep.SWEEP_LOCK, idle_seconds_max=5.0) as ours:
            inside = setting("idle_session_timeout")

        assert (ours, inside, setting("idle_session_timeout")) == (True, "5s", "0")


class TestProbe:
    def test_of_an_old_term_takes_nothing(self, world: World) -> None:
        with pytest.raises(TermOutdated):
            probe.probe_all(world.counterparties.gateways(), fence_of(CURRENT - 1))

    @pytest.mark.parametrize("written", ["failed", "passed"])
    def test_of_a_term_that_ends_during_the_question_writes_nothing_of_it(self, written: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        fences = iter([fence_of(CURRENT), fence_of(CURRENT - 1)])
        done: list[str] = []
        error = Retryable("away")
        error.health = Health.FAILING
        monkeypatch.setattr(counterparty_state, "take_probes", lambda _: [counterparty_state.DueProbe(Counterparty.FUND, "", refuses=False)])
        monkeypatch.setattr(counterparty_state, written, lambda *_, **__: done.append(written))
        doors: Any = SimpleNamespace(query=lambda *_: raised(error) if written == "failed" else None)

        with pytest.raises(TermOutdated):
            probe.probe_all(doors, first_of(fences))

        assert done == []

    def test_that_fails_skips_no_other(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        both = (Counterparty.COUNTER, Counterparty.FUND)
        asked: list[Counterparty] = []
        monkeypatch.setattr(counterparty_state, "take_probes", lambda _: [counterparty_state.DueProbe(name, "", refuses=False) for name in both])

        def ask(stored: StoredRequest, _clock: object) -> None:
            asked.append(stored.counterparty)
            raise ZeroDivisionError

        doors: Any = SimpleNamespace(query=ask)

        with pytest.raises(ZeroDivisionError):
            probe.probe_all(doors, fence_of(CURRENT))

        assert asked == list(both)

    def test_keeps_no_job_waiting_for_a_counterparty_that_hangs(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        counterparty_state.open_breaker("fund", "timeout", refuses=False, actor="test")
        CounterpartyState.objects.update(probe_at=ServiceNow())
        answers = threading.Event()
        monkeypatch.setattr(probe, "gateways", lambda: SimpleNamespace(query=lambda *_: answers.wait(20)))

        tasks.probe()

        assert CounterpartyState.objects.get(name="fund").breaker == Breaker.OPEN
        answers.set()
        wait_until(lambda: CounterpartyState.objects.get(name="fund").breaker == Breaker.HALF_OPEN)
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "probe"])


def raised(error: Exception) -> None:
    raise error


def first_of(fences: Iterator[Fence]) -> Fence:
    """Another fence each time."""

    def fence() -> None:
        next(fences)()

    return fence


class TestGapPass:
    def test_of_an_old_term_leaves_everything_as_it_is(self, world: World) -> None:
        counter, clearings = Counter(), FakeClearings(fence=fence_of(CURRENT - 1))
        counter.commit("A", RULES.since_ms + 1)
        counter.commit("B", RULES.since_ms + 2, quantity="nothing")
        before = everything()

        with pytest.raises(TermOutdated):
            GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, 3, fence_of(CURRENT - 1)).run()
        left = everything()
        clearings.fence = fence_of(CURRENT)
        GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, 3, fence_of(CURRENT)).run()

        assert left == before
        assert (SyncOrder.objects.count(), Quarantined.objects.count(), Watermark.objects.count()) == (1, 1, 1)

    def test_of_an_old_term_puts_nothing_bad_away(self, world: World) -> None:
        counter, clearings = Counter(), FakeClearings(fence=fence_of(CURRENT - 1))
        counter.commit("B", RULES.since_ms + 2, quantity="nothing")

        with pytest.raises(TermOutdated):
            GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, 3).run()

        assert Quarantined.objects.count() == 0

    def test_of_an_old_term_holds_nothing(self, world: World) -> None:
        counter, clearings = Counter(), FakeClearings()
        counter.commit("A", RULES.since_ms + 1)
        GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, 3).run()
        counter.rows[0].clear()
        counter.commit("A", RULES.since_ms + 1, quantity="0.7")
        clearings.fence = fence_of(CURRENT - 1)

        with pytest.raises(TermOutdated):
            GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, 3).run(since_ms=RULES.since_ms)

        assert (clearings.held, Quarantined.objects.count()) == ([], 0)

    def test_of_an_old_term_moves_no_position(self, world: World) -> None:
        with pytest.raises(TermOutdated):
            GapPass(Counter(), lambda _: IngestResult(), RULES, OVERLAP, 3, fence_of(CURRENT - 1)).run()

        assert Watermark.objects.count() == 0

    def test_of_an_old_term_counts_nothing_as_found(self, world: World) -> None:
        counter = Counter()
        counter.commit("A", RULES.since_ms + 1)

        with pytest.raises(TermOutdated):
            GapPass(counter, lambda _: IngestResult(accepted=1), RULES, OVERLAP, 3, fence_of(CURRENT - 1)).run()

        assert Watermark.objects.count() == 0

    def test_is_handed_the_jobs_fence(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        fences: list[Fence] = []

        def ingest(_items: object, *, fence: Fence, **_: object) -> IngestResult:
            fences.append(fence)
            return IngestResult()

        monkeypatch.setattr(wiring, "ingest", ingest)
        monkeypatch.setattr(wiring, "_interface", _one_row)
        fence = fence_of(CURRENT)

        wiring.run_gap_pass(fence=fence)

        assert fences == [fence]


class TestReconcile:
    def test_of_an_old_term_keeps_no_row(self, world: World) -> None:
        tables: Any = Tables()

        with pytest.raises(TermOutdated):
            Reconcile(tables, lambda _: IngestResult(), RULES, 3, 0, fence_of(CURRENT - 1)).run(1)

        assert ReconcileRun.objects.count() == 0

    def test_of_an_old_term_deletes_none(self, world: World) -> None:
        ReconcileRun.objects.create(shard=0, from_ms=0, to_ms=1)
        ReconcileRun.objects.update(at=ServiceNow() - timedelta(days=31))
        tables: Any = Tables(shards_=())

        with pytest.raises(TermOutdated):
            Reconcile(tables, lambda _: IngestResult(), RULES, 3, 0, fence_of(CURRENT - 1)).run(1)

        assert ReconcileRun.objects.count() == 1


@dataclass
class Tables:
    """The counter's tables, empty."""

    shards_: tuple[int, ...] = (0,)

    def shards(self) -> Any:
        return Shards(self.shards_, RULES.since_ms + 10_000)

    def counts(self, *_: object) -> Any:
        return SimpleNamespace(minutes={})


def _one_row() -> Counter:
    counter = Counter()
    counter.commit("A", RULES.since_ms + 1)
    return counter


def setting(name: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting(%s)", [name])
        return str(cursor.fetchone()[0])


@contextmanager
def another_session() -> Iterator[Any]:
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            yield cursor
    finally:
        other.close()
