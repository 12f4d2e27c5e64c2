"""A consumer that stands still ends itself; one that waits for a server doesn't. A counter that is
away is asked more and more rarely.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
from pytest_django import Settings

from base.fence import Fence
from ops import tasks
from ops.jobs.backoff import Backoff
from ops.liveness.stall import watched
from ops.management.commands import consume_binlog
from orders.backfill.gap_pass import SHARD_LIST, GapResult
from orders.intake.classify import Skipped
from orders.intake.ingest import IngestResult
from orders.stream.consumer import BinlogConsumer, ExitCode
from tests.orders.messages import RULES
from tests.support.waiting import wait_until


class TestWatch:
    def test_ends_a_consumer_that_is_stuck_once_its_alarm_is_out(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        settings.CONSUMER_STALL_SECONDS_MAX = 0.05
        release, stopping, ended = threading.Event(), threading.Event(), list[object]()
        monkeypatch.setattr("base.alarms.flush", lambda: ended.append("flushed"))

        def stuck() -> object:
            release.wait(10)
            raise ConnectionRefusedError

        consumer = BinlogConsumer(stuck, lambda _: IngestResult(), RULES, stopping)
        loop = threading.Thread(target=consumer.run)
        loop.start()

        with watched(consumer, ended.append) as watch:
            watch.join(10)

        stopping.set()
        release.set()
        loop.join(10)
        assert ended == ["flushed", ExitCode.STUCK]

    def test_leaves_one_alone_that_waits_for_kafka(self, settings: Settings) -> None:
        settings.CONSUMER_STALL_SECONDS_MAX = 6.0
        asked, ended, stopping = list[int](), list[int](), threading.Event()

        def away() -> object:
            asked.append(1)
            if len(asked) == 5:
                stopping.set()
            raise ConnectionRefusedError

        consumer = BinlogConsumer(away, lambda _: IngestResult(), RULES, stopping)
        with watched(consumer, ended.append) as watch:
            consumer.run()

        watch.join(10)
        assert (len(asked), ended) == (5, [])

    def test_gives_a_batch_the_time_of_all_its_transactions(self, settings: Settings) -> None:
        settings.INTAKE_BATCH_ROWS_MAX = 2
        silent, alone = list[float](), list[float]()

        def take(items: object) -> IngestResult:
            consumer._last_round -= 60
            silent.append(consumer.silent_seconds)
            return IngestResult()

        consumer = BinlogConsumer(lambda: None, take, RULES, threading.Event())
        consumer._last_round -= 60
        alone.append(consumer.silent_seconds)
        consumer._last_round += 60

        consumer._taken([Skipped("kind")] * 5, lambda: None)

        assert [round(seconds) for seconds in alone + silent] == [60, 20]


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

        def connect(group: str) -> object:
            opened.append(group)
            stoppings[0].set()
            raise ConnectionRefusedError

        for name, stand_in in (
            ("held", waits_long),
            ("connect", connect),
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
