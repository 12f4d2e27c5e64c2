"""A consumer that stands still ends itself; one that waits for a server doesn't. A counter that is
away is asked more and more rarely.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
from pytest_django import Settings

from base.fence import Fence
from ops import tasks, wiring
from ops.jobs.backoff import Backoff
from ops.liveness.stall import watched
from ops.management.commands import consume_binlog
from orders.backfill.gap_pass import SHARD_LIST, GapResult
from orders.intake.classify import Suspect
from orders.intake.result import IngestResult
from orders.models import Source
from orders.stream.consumer import BinlogConsumer, ExitCode
from orders.stream.progress import Progress
from tests.orders.messages import RULES, inserts, message, read, row
from tests.support.waiting import wait_until


class TestWatch:
    def test_ends_a_stuck_consumer_after_its_stacks_and_its_alarm_are_written(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        settings.CONSUMER_STALL_SECONDS_MAX = 0.05
        release, stopping, ended = threading.Event(), threading.Event(), list[object]()
        monkeypatch.setattr("base.alarms.flush", lambda: ended.append("flushed"))

        def stuck(_: object) -> object:
            release.wait(10)
            raise ConnectionRefusedError

        progress = Progress()
        consumer = BinlogConsumer(stuck, lambda _: IngestResult(), lambda: RULES, stopping, progress=progress)
        loop = threading.Thread(target=consumer.run)
        loop.start()

        with watched(progress, ended.append) as watch:
            watch.join(10)

        stopping.set()
        release.set()
        loop.join(10)
        assert ended == ["flushed", ExitCode.STUCK]
        stacks = capfd.readouterr().err
        assert "Current thread" in stacks, "of the watchdog itself"
        assert re.search(r"test_stall\.py.* in stuck", stacks), "of the loop that it watches"

    def test_leaves_one_alone_that_waits_for_kafka(self, settings: Settings) -> None:
        settings.CONSUMER_STALL_SECONDS_MAX = 6.0
        asked, ended, stopping = list[int](), list[int](), threading.Event()

        def away(_: object) -> object:
            asked.append(1)
            if len(asked) == 5:
                stopping.set()
            raise ConnectionRefusedError

        progress = Progress()
        consumer = BinlogConsumer(away, lambda _: IngestResult(), lambda: RULES, stopping, progress=progress)
        with watched(progress, ended.append) as watch:
            consumer.run()

        watch.join(10)
        assert (len(asked), ended) == (5, [])

    @pytest.mark.django_db(transaction=True)
    def test_counts_from_the_end_of_the_last_transaction_of_a_batch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """However many transactions a batch needs, each has the same limit: 500 deleted rows of
        accepted orders need 500.
        """
        now, silent = [0.0], list[float]()
        monkeypatch.setattr("orders.stream.progress.time", SimpleNamespace(monotonic=lambda: now[0]))
        progress = Progress()
        ids = [f"O{number}" for number in range(3)]
        wiring._ingest(inserts(ids), source=Source.KAFKA)
        fetched = read(*(message(row(order_id), kind="DELETE") for order_id in ids))

        def slow_fence() -> None:
            now[0] += 40
            silent.append(progress.silent_seconds)

        assert all(isinstance(item, Suspect) for item in fetched)
        ingest_from_kafka = partial(wiring._ingest, source=Source.KAFKA, fence=slow_fence, after_transaction=progress.stamp)
        consumer = BinlogConsumer(lambda _: None, ingest_from_kafka, lambda: RULES, threading.Event(), progress=progress)

        consumer._ingested(fetched, lambda: None)

        assert silent == [40, 40, 40]


class TestStandby:
    @pytest.mark.parametrize("told_to_stop", [False, True])
    def test_that_waited_for_its_slot_is_not_taken_for_stuck(self, told_to_stop: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.CONSUMER_STALL_SECONDS_MAX = 2.0
        ended, opened, stoppings = list[int](), list[str](), list[threading.Event]()

        @contextmanager
        def waits_long(_name: str, stopping: threading.Event) -> Iterator[None]:
            stoppings.append(stopping)
            stopping.wait(2.2)
            if told_to_stop:
                stopping.set()
            yield

        def connect(group: str, _listener: object) -> object:
            opened.append(group)
            stoppings[0].set()
            raise ConnectionRefusedError

        for name, stand_in in (
            ("held", waits_long),
            ("connect", connect),
            ("current_rules", lambda: RULES),
            ("watched", partial(watched, end=ended.append)),
            ("set_on_signal", lambda *_: None),
            ("registration", lambda _: SimpleNamespace(start=lambda: None)),
        ):
            monkeypatch.setattr(consume_binlog, name, stand_in)
        with pytest.raises(SystemExit) as stopped:
            consume_binlog.Command().handle(group="g", until_idle=None)

        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "stall-watch"])
        assert (stopped.value.code, ended, opened) == (ExitCode.STOPPED, [], [] if told_to_stop else ["g"])


class TestBackoff:
    def test_grows_with_each_failure_and_ends_with_an_answer(self, settings: Settings) -> None:
        settings.GAP_PASS_SECONDS = 3.0
        now = [0.0]
        backoff = Backoff(lambda: now[0])
        waited = []
        for _ in range(6):
            backoff.record(success=False)
            began = now[0]
            while not backoff.may_ask():
                now[0] += 1
            waited.append(now[0] - began)

        backoff.record(success=True)

        assert waited == [3, 6, 12, 24, 30, 30]
        assert backoff.may_ask()

    @pytest.mark.django_db
    def test_keeps_the_periodic_pass_from_a_counter_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, asked = [0.0], list[float]()
        answers = [GapResult(failed={SHARD_LIST: "away"}), GapResult(failed={SHARD_LIST: "away"}), GapResult()]

        def run_gap_pass(fence: Fence) -> GapResult:
            asked.append(now[0])
            return answers[min(len(asked), len(answers)) - 1]

        monkeypatch.setattr(tasks, "counter_backoff", Backoff(lambda: now[0]))
        monkeypatch.setattr(tasks, "run_gap_pass", run_gap_pass)

        for second in range(14):
            now[0] = float(second)
            tasks.gap_pass()

        assert asked == [0, 3, 9, 10, 11, 12, 13]
