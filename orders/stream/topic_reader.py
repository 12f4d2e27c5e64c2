"""Reads a part of a topic again, beside the consumer: it joins no group and commits no offset, so
the consumer isn't affected.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

from orders.intake.classify import Origin
from orders.stream.preflight import BrokerNotTrusted, advice, check_connectivity

CONNECT_MS_MAX: Final = 5_000
ANSWER_MS_MAX: Final = 10_000
POLL_MS: Final = 300
SILENT_SECONDS_MAX: Final = 20.0  # without a message, while some are still to come


class LogNotReadable(Exception):  # noqa: N818 - named by what it reports
    """The topic, or the requested part of it, can't be read: why, and what to do."""


@dataclass(frozen=True, slots=True)
class Span:
    """Offsets of one partition: from `start` up to, and without, `end`."""

    partition: int
    start: int
    end: int

    @property
    def messages(self) -> int:
        return max(self.end - self.start, 0)


Message = tuple[bytes | None, Origin]


class LogReader:
    """One topic, or one partition of it, up to its present end. Every method raises
    LogNotReadable.
    """

    def __init__(self, consumer: KafkaConsumer, topic: str, partition: int | None) -> None:
        self._consumer = consumer
        self._topic = topic
        with _explained(topic):
            numbers = sorted(consumer.partitions_for_topic(topic) or ())
            if not numbers:
                raise LogNotReadable(f"there is no topic {topic!r} at this broker: name another with --topic")
            if partition is not None and partition not in numbers:
                raise LogNotReadable(f"{topic!r} has no partition {partition}; it has {', '.join(map(str, numbers))}")
            self._partitions = [TopicPartition(topic, number) for number in ([partition] if partition is not None else numbers)]
            self._begins: dict[TopicPartition, int] = consumer.beginning_offsets(self._partitions, timeout_ms=ANSWER_MS_MAX)
            self._ends: dict[TopicPartition, int] = consumer.end_offsets(self._partitions, timeout_ms=ANSWER_MS_MAX)

    def whole(self) -> list[Span]:
        """All messages that the log still has."""
        return [Span(each.partition, self._begins[each], self._ends[each]) for each in self._partitions]

    def by_offsets(self, first: int, last: int) -> list[Span]:
        """The messages from offset `first` to `last`, both included, of each partition. Offsets
        that the log doesn't have are left out.
        """
        return [Span(span.partition, max(first, span.start), min(last + 1, span.end)) for span in self.whole()]

    def by_times(self, from_ms: int, to_ms: int) -> list[Span]:
        """The messages that were written to the log from `from_ms` up to, and without, `to_ms`."""
        starts, ends = self._first_since(from_ms), self._first_since(to_ms)
        return [Span(each.partition, starts[each], ends[each]) for each in self._partitions]

    def read(self, spans: Sequence[Span], batch_messages: int) -> Iterator[list[Message]]:
        """The spans' messages, each partition's in order, in batches of at most so many."""
        ends = {TopicPartition(self._topic, span.partition): span.end for span in spans if span.messages}
        self._consumer.assign(list(ends))
        for span in spans:
            if span.messages:
                self._consumer.seek(TopicPartition(self._topic, span.partition), span.start)
        last_data = time.monotonic()
        while ends:
            messages = self._poll(ends, batch_messages)
            if messages:
                last_data = time.monotonic()
                yield messages
            elif time.monotonic() - last_data > SILENT_SECONDS_MAX:
                raise LogNotReadable(
                    f"nothing came from {self._topic!r} for {SILENT_SECONDS_MAX:.0f} s: is the broker healthy? Repeating is harmless"
                )

    def _poll(self, ends: dict[TopicPartition, int], batch_messages: int) -> list[Message]:
        """The next batch. A partition that was read to its end is removed from `ends` and
        paused.
        """
        with _explained(self._topic):
            polled = self._consumer.poll(timeout_ms=POLL_MS, max_records=batch_messages)
            messages = [
                (record.value, Origin(partition.topic, partition.partition, record.offset, record.value or b"", record.timestamp or None))
                for partition, records in polled.items()
                for record in records
                if record.offset < ends.get(partition, 0)
            ]
            for partition in [each for each, end in ends.items() if self._consumer.position(each, timeout_ms=ANSWER_MS_MAX) >= end]:
                del ends[partition]
                self._consumer.pause(partition)
        return messages

    def _first_since(self, at_ms: int) -> Mapping[TopicPartition, int]:
        with _explained(self._topic):
            offsets = self._consumer.offsets_for_times(dict.fromkeys(self._partitions, at_ms), timeout_ms=ANSWER_MS_MAX)
        return {each: self._ends[each] if offsets.get(each) is None else offsets[each].offset for each in self._partitions}


def committed_offsets(servers: Sequence[str], topic: str, group: str) -> dict[int, int]:
    """What the group has committed, by partition; without joining it. Raises LogNotReadable."""
    with _explained(topic):
        check_connectivity(servers, CONNECT_MS_MAX)
        consumer = _consumer(servers, group)
    try:
        with _explained(topic):
            partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
            found = {each.partition: consumer.committed(each, timeout_ms=ANSWER_MS_MAX) for each in partitions}
    finally:
        consumer.close(autocommit=False)
    return {partition: offset for partition, offset in found.items() if offset is not None}


@contextmanager
def open_reader(servers: Sequence[str], topic: str, partition: int | None = None) -> Iterator[LogReader]:
    """A reader of the topic, or of one partition. Raises LogNotReadable."""
    with _explained(topic):
        check_connectivity(servers, CONNECT_MS_MAX)
        consumer = _consumer(servers)
    try:
        yield LogReader(consumer, topic, partition)
    finally:
        consumer.close(autocommit=False)


def _consumer(servers: Sequence[str], group: str | None = None) -> KafkaConsumer:
    return KafkaConsumer(
        bootstrap_servers=list(servers),
        **settings.KAFKA_SECURITY.client_options(),
        client_id="acceptance-replay",
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="none",
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=CONNECT_MS_MAX,
        metrics_enabled=False,
    )


@contextmanager
def _explained(topic: str) -> Iterator[None]:
    try:
        yield
    except kafka_errors.AuthorizationError as error:
        raise LogNotReadable(f"Kafka denies access: give our account the right to read {topic!r} ({type(error).__name__})") from error
    except (kafka_errors.SaslAuthenticationFailedError, kafka_errors.UnsupportedSaslMechanismError) as error:
        fix = "correct KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD"
        raise LogNotReadable(f"Kafka refuses our credentials: {error}: {fix}") from error
    except BrokerNotTrusted as error:
        raise LogNotReadable(str(error)) from error
    except kafka_errors.OffsetOutOfRangeError as error:
        raise LogNotReadable(f"{topic!r} lost messages while it was read: repeat the command, which is harmless") from error
    except (kafka_errors.KafkaError, OSError) as error:
        raise LogNotReadable(f"Kafka unavailable: {type(error).__name__}: {error} (fix: {advice()})") from error
