"""Offsets of a partition that was revoked are never committed, even after it has come back."""

import threading
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka import errors as kafka_errors

from orders.intake.classify import Item
from orders.intake.result import IngestResult
from orders.stream import consumer
from orders.stream.consumer import BinlogConsumer
from orders.stream.offsets import Polled, StagedOffsets
from tests.orders.messages import RULES

STAYS, LEAVES = TopicPartition("orders", 0), TopicPartition("orders", 1)


def records(*offsets: int) -> list[Any]:
    return [SimpleNamespace(value=None, offset=offset, timestamp=0) for offset in offsets]


class FakeKafka:
    """As KafkaConsumer, with a poll that the test scripts: each entry makes one, and may call the
    listener.
    """

    def __init__(self, listener: Any, script: Sequence[Callable[[Any], Polled]], stopping: threading.Event) -> None:
        self._listener = listener
        self._script = iter(script)
        self._stopping = stopping
        self._coordinator = SimpleNamespace(need_rejoin=lambda: False)
        self.refusing = False
        self.committed: list[dict[TopicPartition, int]] = []

    def assignment(self) -> set[TopicPartition]:
        return {STAYS, LEAVES}

    def poll(self, **_: object) -> Polled:
        step = next(self._script, None)
        if step is None:
            self._stopping.set()
            return {}
        return step(self._listener)

    def commit(self, offsets: Mapping[TopicPartition, Any], timeout_ms: int) -> None:
        if self.refusing:
            self.refusing = False
            raise kafka_errors.RebalanceInProgressError
        self.committed.append({partition: given.offset for partition, given in offsets.items()})

    def highwater(self, _partition: TopicPartition) -> int | None:
        return None

    def close(self, **_: object) -> None:
        pass


def consume(script: Sequence[Callable[[Any], Polled]], while_ingesting: Callable[[Any], object] = lambda _: None) -> FakeKafka:
    """The fake, after a consumer has read it to its end."""
    stopping, opened = threading.Event(), list[FakeKafka]()

    def open_log(listener: Any) -> Any:
        opened.append(FakeKafka(listener, script, stopping))
        opened[0].refusing = True
        return opened[0]

    def intake(_: Sequence[Item]) -> IngestResult:
        while_ingesting(opened[0]._listener)
        return IngestResult()

    BinlogConsumer(open_log, intake, lambda: RULES, stopping).run()
    return opened[0]


@pytest.fixture(autouse=True)
def _commit_after_each_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "COMMIT_SECONDS", -1.0)


class TestARevokedPartition:
    def test_that_comes_back_is_not_committed_from_before(self) -> None:
        """The commit after the first batch is refused, since the group rebalances: another member
        has the partition, commits newer offsets, and ends.
        """

        def leaves(listener: Any) -> Polled:
            listener.on_partitions_revoked({LEAVES})
            return {}

        def comes_back(listener: Any) -> Polled:
            listener.on_partitions_assigned({LEAVES})
            return {STAYS: records(8)}

        first: Polled = {STAYS: records(6, 7), LEAVES: records(499)}

        kafka = consume([lambda _: first, lambda _: {}, leaves, comes_back])

        assert kafka.committed == [{STAYS: 8}, {STAYS: 9}]

    def test_while_its_batch_is_ingested_is_not_committed(self) -> None:
        def comes_back(listener: Any) -> Polled:
            listener.on_partitions_assigned({LEAVES})
            return {}

        first: Polled = {LEAVES: records(499)}

        kafka = consume([lambda _: first, comes_back, lambda _: {}], while_ingesting=lambda listener: listener.on_partitions_revoked({LEAVES}))

        assert kafka.committed == []

    def test_is_committed_again_from_what_came_after(self) -> None:
        staged = StagedOffsets()
        staged.stage({LEAVES: records(499)})
        staged.on_partitions_lost({LEAVES})
        staged.on_partitions_assigned({LEAVES})
        staged.stage({LEAVES: records(900)})

        assert {partition: given.offset for partition, given in staged.to_commit({LEAVES}).items()} == {LEAVES: 901}
