"""How many messages a consumer is behind, as metrics of its partitions."""

from contextlib import suppress
from typing import Any, Final

from kafka import KafkaConsumer
from kafka import errors as kafka_errors

from base import metrics
from orders.stream.offsets import Polled

ANSWER_MS_MAX: Final = 1_000


def show_lag(consumer: KafkaConsumer, polled: Polled) -> None:
    """By what came with the last poll."""
    for partition, records in polled.items():
        end: Any = consumer.highwater(partition)
        if end is not None:
            metrics.INTAKE_LAG.labels(str(partition.partition)).set(max(end - records[-1].offset - 1, 0))


def show_whole_lag(consumer: KafkaConsumer) -> None:
    """By asking the broker: while the database is unavailable nothing is polled, and the log
    grows.
    """
    with suppress(kafka_errors.KafkaError, OSError):
        for partition, end in consumer.end_offsets(list(consumer.assignment()), timeout_ms=ANSWER_MS_MAX).items():
            behind = end - consumer.position(partition, timeout_ms=ANSWER_MS_MAX)
            metrics.INTAKE_LAG.labels(str(partition.partition)).set(max(behind, 0))
