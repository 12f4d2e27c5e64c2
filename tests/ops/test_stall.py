"""A consumer that stands still ends itself; one that waits for a server doesn't. A counter that is away is asked more and more rarely."""

import threading

from pytest_django import Settings

from ops.intake import Patience
from ops.stall import watched
from orders.consumer import BinlogConsumer, ExitCode
from orders.ingest import IngestResult
from tests.orders.messages import RULES


class TestWatch:
    def test_ends_a_consumer_that_is_stuck(self, settings: Settings) -> None:
        settings.CONSUMER_STALL_SECONDS_MAX = 0.05
        release, stopping, ended = threading.Event(), threading.Event(), list[int]()

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
        assert ended == [ExitCode.STUCK]

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


class TestPatience:
    def test_grows_with_each_failure_and_ends_with_an_answer(self, settings: Settings) -> None:
        settings.GAP_PASS_SECONDS = 3.0
        now = [0.0]
        patience = Patience(lambda: now[0])
        waited = []
        for _ in range(6):
            patience.heard(answered=False)
            began = now[0]
            while not patience.may_ask():
                now[0] += 1
            waited.append(now[0] - began)

        patience.heard(answered=True)

        assert waited == [3, 6, 12, 24, 30, 30]
        assert patience.may_ask()
