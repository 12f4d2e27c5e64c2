"""The offsets that the consumer has ingested up to and still has to commit."""

import threading
from collections.abc import Collection, Mapping, Sequence

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.structs import OffsetAndMetadata

Polled = Mapping[TopicPartition, Sequence[ConsumerRecord]]


class StagedOffsets(ConsumerRebalanceListener):  # type: ignore[misc] # kafka-python isn't typed
    """Of each assigned partition, the offset after its last ingested message.

    A revoked partition's offset is dropped: when the partition comes back, its owner in between may
    have committed a newer one, which ours must not overwrite. kafka-python calls the listener in
    its I/O thread, possibly while a batch is ingested: a batch of a partition that was revoked
    meanwhile isn't staged either. What was dropped is read again, and found known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offsets: dict[TopicPartition, int] = {}
        self._revoked: set[TopicPartition] = set()

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self._offsets)

    def stage(self, polled: Polled) -> None:
        """The polled messages were ingested."""
        with self._lock:
            self._offsets |= {partition: records[-1].offset + 1 for partition, records in polled.items() if partition not in self._revoked}

    def to_commit(self, assigned: Collection[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """The staged offsets of the assigned partitions."""
        with self._lock:
            return {partition: OffsetAndMetadata(offset, "", -1) for partition, offset in self._offsets.items() if partition in assigned}

    def clear(self) -> None:
        """All were committed."""
        with self._lock:
            self._offsets.clear()

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Called by kafka-python, also (as on_partitions_lost) when the group has thrown us out."""
        with self._lock:
            self._revoked.update(revoked)
            for partition in revoked:
                self._offsets.pop(partition, None)

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Called by kafka-python."""
        with self._lock:
            self._revoked.difference_update(assigned)
