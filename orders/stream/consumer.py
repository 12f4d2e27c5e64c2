"""Reads the binlog's topic: poll, parse, ingest, and only then commit Kafka's offset (design, rule
3).

Before the first start of its database (design, rule 15) it waits and reads nothing. Whatever fails
in between, the messages come again and are found known. The consumer survives a
rebalance, a lost commit, and a broker or a database that is unavailable. If the committed offset
lies beyond the end of a log that lost its end, reading goes on from the log's beginning, and gap
compensation brings what was lost.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

import structlog
from django.conf import settings
from django.db import InternalError
from kafka import KafkaConsumer
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor

from base import metrics
from base.alarms import alarm
from base.db import DATABASE_UNAVAILABLE, drop_broken_connection, is_unavailable
from orders.intake import faults
from orders.intake.classify import TABLE_CHANGED, Arrival, Item, Origin, read_message
from orders.intake.faults import FAULT_FIX, INTAKE_FAULT, IntakeFault
from orders.intake.first_start import NOT_STARTED, NotStarted
from orders.intake.ingest import Intake
from orders.intake.mapping import Rules
from orders.intake.result import IngestResult
from orders.stream.lag import show_lag, show_whole_lag
from orders.stream.offsets import Polled, StagedOffsets
from orders.stream.preflight import BrokerNotTrusted, advice, check_connectivity
from orders.stream.progress import Progress
from orders.stream.stop_rule import StopRule

log = structlog.get_logger(__name__)

POLL_MS: Final = 300  # also how long a stop may wait; data ends a poll at once
SHORT_POLL_MS: Final = 2  # of a broker that never waits for data (KAFKA_IDLE_SLEEP_MS): enough for one response
IDLE_SLEEP_MS_MIN: Final = 8.0
IDLE_SHARE: Final = 0.1  # of the time since the last message
FETCH_BYTES_MAX: Final = 8 << 20  # of one poll, as it comes; a batch that is larger comes alone
PARTITION_BYTES_MAX: Final = 1 << 20
MESSAGE_ROWS_MAX: Final = 10_000  # of one message; one with more is quarantined whole
AUTHENTIC_SECONDS_MAX: Final = 60.0  # without a row that is shown to be the counter's: then our key is wrong, and not a sender
COMMIT_SECONDS: Final = 0.1  # offsets are committed no more often: what comes again after a crash is known, and a commit costs as much as an order
CONNECT_MS_MAX: Final = 1_000
COMMIT_MS_MAX: Final = 1_000
CLOSE_MS_MAX: Final = 500
SESSION_MS: Final = 10_000  # how long a dead member keeps its partitions from the others
HEARTBEAT_MS: Final = 2_000
METADATA_MS_MAX: Final = 10_000  # a topic that is created later, or gets more partitions, is seen within this
BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
UNASSIGNED_SECONDS_MAX: Final = 10.0
INTERNAL_ERRORS_BEFORE_ALARM: Final = 5  # in a row
FIRST_START_SECONDS: Final = 1.0  # between two looks whether somebody has said since when
FIRST_START_REMINDER_SECONDS: Final = 60.0

# The group rebalances: our partitions may be another member's now, who reads them from the
# committed offsets on.
REBALANCED: Final = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.RebalanceInProgressError,
    kafka_errors.KafkaTimeoutError,
)
ASSIGNORS: Final = {"cooperative-sticky": CooperativeStickyAssignor, "range": RangePartitionAssignor}
NOT_AUTHENTICATED: Final = (
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
)


class ExitCode(IntEnum):
    """How the consumer ends. Anything else is a bug with a traceback (1), or an error that Django
    reports (1).
    """

    STOPPED = 0  # SIGTERM, SIGINT, or nothing more to read with --until-idle
    STUCK = 70  # no progress for CONSUMER_STALL_SECONDS_MAX: a supervisor starts it again
    FENCED = 75  # another member of the group uses our KAFKA_INSTANCE_ID
    NOT_ALLOWED = 77  # Kafka refuses our credentials or their rights
    TOO_MANY_BAD = 78  # the stop rule; a supervisor leaves it stopped


class MustStop(Exception):  # noqa: N818 - named by what it demands
    """Retrying is no use: what happened, what to do about it, and the exit code."""

    def __init__(self, code: ExitCode, event: str, fix: str) -> None:
        super().__init__(event)
        self.code = code
        self.fix = fix


def connect(group: str, listener: ConsumerRebalanceListener | None = None) -> KafkaConsumer:
    """A consumer of the topic by the settings, as a static member where KAFKA_INSTANCE_ID is set.
    `listener` is told of revoked and assigned partitions. Raises KafkaError or OSError when no
    broker answers.
    """
    check_connectivity(settings.KAFKA_BOOTSTRAP_SERVERS, CONNECT_MS_MAX)
    consumer = KafkaConsumer(
        bootstrap_servers=settings.KAFKA_BOOTSTRAP_SERVERS,
        **settings.KAFKA_SECURITY.client_options(),
        client_id="acceptance",
        group_id=group,
        group_instance_id=settings.KAFKA_INSTANCE_ID or None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        partition_assignment_strategy=[ASSIGNORS[settings.KAFKA_ASSIGNMENT]],
        session_timeout_ms=SESSION_MS,
        heartbeat_interval_ms=HEARTBEAT_MS,
        metadata_max_age_ms=METADATA_MS_MAX,
        fetch_max_bytes=FETCH_BYTES_MAX,
        max_partition_fetch_bytes=PARTITION_BYTES_MAX,
        bootstrap_timeout_ms=CONNECT_MS_MAX,
        reconnect_backoff_max_ms=1_000,
        metrics_enabled=False,
    )
    consumer.subscribe([settings.KAFKA_TOPIC], listener=listener)
    return consumer


class BinlogConsumer:
    """Reads and ingests until `stopping` is set, or nothing came for `idle_seconds`.

    `open_log` connects, with the listener that it is handed (`connect`); `intake` ingests a batch;
    `read_rules` gives the rules of the moment (`current_rules`), and is asked before each connect.
    `progress` is stamped whenever the loop comes round; let `intake` stamp it after each of its
    transactions, so that a long batch isn't taken for a stuck consumer.
    """

    def __init__(
        self,
        open_log: Callable[[ConsumerRebalanceListener], KafkaConsumer],
        intake: Intake,
        read_rules: Callable[[], Rules],
        stopping: threading.Event,
        *,
        idle_seconds: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._open_log = open_log
        self._intake = intake
        self._read_rules = read_rules
        self._stopping = stopping
        self._idle_seconds = idle_seconds
        self._progress = progress or Progress()
        self._stop_rule = StopRule()
        self._offsets = StagedOffsets()
        self._last_data = self._last_complaint = self._last_commit = time.monotonic()
        self._last_authentic = time.monotonic()  # when a row was last shown to be the counter's
        self._faults = 0  # internal errors in a row
        self.total = IngestResult()

    def run(self) -> ExitCode:
        """Consumes; reconnects after every Kafka error. Returns how it ended."""
        failures = 0
        while not self._stopping.is_set():
            try:
                rules = self._rules_once_started()
                if rules is None:
                    break
                with _translated(), self._opened() as consumer:
                    while not self._stopping.is_set():
                        self._round(consumer, rules)
                        failures = 0
            except MustStop as stop:
                alarm("intake_stopped", str(stop), fix=stop.fix, exit_code=int(stop.code))
                return stop.code
            except NotStarted:
                log.exception("another, empty database answers at our address", fix="see the alarm that follows")
            except (kafka_errors.KafkaError, OSError) as error:
                cause = f"{type(error).__name__}: {error}"
                log.warning("Kafka unavailable, reconnecting", error=cause, servers=settings.KAFKA_BOOTSTRAP_SERVERS, fix=advice())
                failures += 1
                self._progress.stamp()
                self._stopping.wait(_backoff(failures))
        return ExitCode.STOPPED

    def _rules_once_started(self) -> Rules | None:
        """The rules, as soon as the database answers and accepts orders. None: `stopping` was set
        before.
        """
        reminded_at = None
        while not self._stopping.is_set():
            self._progress.stamp()
            try:
                return self._read_rules()
            except NotStarted as error:
                if reminded_at is None or time.monotonic() - reminded_at > FIRST_START_REMINDER_SECONDS:
                    reminded_at = time.monotonic()
                    alarm(NOT_STARTED, "orders wait in Kafka for the first start", fix=str(error))
                self._idle(assigned=True)
            except DATABASE_UNAVAILABLE as error:
                drop_broken_connection()
                log.warning("database unavailable, nothing is read", error=str(error).strip(), fix="nothing: it is asked again")
            self._stopping.wait(FIRST_START_SECONDS)
        return None

    @contextmanager
    def _opened(self) -> Iterator[KafkaConsumer]:
        """A connected consumer. At the end a dynamic member leaves the group; a static one keeps
        its place for its next start.
        """
        self._offsets = StagedOffsets()
        consumer = self._open_log(self._offsets)
        self._last_complaint = time.monotonic()
        try:
            yield consumer
            self._commit(consumer)
        finally:
            consumer.close(autocommit=False, timeout_ms=CLOSE_MS_MAX)

    def _round(self, consumer: KafkaConsumer, rules: Rules) -> None:
        self._progress.stamp()
        try:
            polled: Polled = consumer.poll(timeout_ms=self._poll_ms(consumer), max_records=settings.INTAKE_BATCH_ROWS_MAX)
        except REBALANCED as error:
            log.info("the group rebalances", reason=type(error).__name__)
            return
        if self._offsets and time.monotonic() - self._last_commit > COMMIT_SECONDS:
            self._commit(consumer)
        if not polled:
            self._idle(bool(consumer.assignment()))
            self._stopping.wait(idle_sleep_seconds(time.monotonic() - self._last_data))
            return
        self._last_data = time.monotonic()
        try:
            self._ingest(consumer, polled, rules)
            self._faults = 0
        except IntakeFault as fault:
            faults.raise_alarm(fault)
            self._rewind(consumer, polled)

    def _ingest(self, consumer: KafkaConsumer, polled: Polled, rules: Rules) -> None:
        items = _items(polled, rules)
        if any(isinstance(item, Arrival) for item in items):
            self._last_authentic = time.monotonic()
        result = self._ingested(items, lambda: show_whole_lag(consumer))
        if result is not None:
            self.total.add(result)
            self._offsets.stage(polled)
            show_lag(consumer, polled)
            self._judge(polled, result)
            if self._stop_rule.broken:
                self._commit(consumer)
                self._tell_of_a_wrong_key(result)
                fix = "look at the newest quarantined messages in the admin, mend what made them, then start the consumer again"
                raise MustStop(ExitCode.TOO_MANY_BAD, f"stopped: {self._stop_rule.broken}", fix)

    def _rewind(self, consumer: KafkaConsumer, polled: Polled) -> None:
        """Goes back to before the batch that failed with an internal error, and waits. It is
        ingested by a mended release, or beside other orders, whose success shows that the failing
        one is to blame.
        """
        for partition, records in polled.items():
            consumer.seek(partition, records[0].offset)
        self._faults += 1
        self._stopping.wait(_backoff(self._faults))

    @staticmethod
    def _poll_ms(consumer: KafkaConsumer) -> int:
        """A short poll would end before a rebalance does: members that join would wait for one
        another in vain.
        """
        # kafka-python has no public method that says whether a rebalance is pending.
        settled = consumer.assignment() and not consumer._coordinator.need_rejoin()  # noqa: SLF001
        return SHORT_POLL_MS if settings.KAFKA_IDLE_SLEEP_MS and settled else POLL_MS

    def _ingested(self, items: list[Item], while_unavailable: Callable[[], None]) -> IngestResult | None:
        """Ingests the items, however long the database is unavailable. None: `stopping` was set
        before it was done.
        """
        failures = 0
        while True:
            try:
                return self._intake(items)
            except (*DATABASE_UNAVAILABLE, InternalError) as error:
                drop_broken_connection()
                fix = "nothing: it is retried until the database accepts it"
                log.warning("database unavailable, batch will be retried", rows=len(items), error=str(error).strip(), fix=fix)
                while_unavailable()
                failures += 1
                if not is_unavailable(error) and failures % INTERNAL_ERRORS_BEFORE_ALARM == 0:
                    alarm(INTAKE_FAULT, "the database fails with an internal error", error=str(error).strip(), rows=len(items), fix=FAULT_FIX)
                self._progress.stamp()
                if self._stopping.wait(_backoff(failures)):
                    return None

    def _commit(self, consumer: KafkaConsumer) -> None:
        """Commits the staged offsets of the partitions that are still assigned. A refused commit is
        repeated with the next one.
        """
        self._last_commit = time.monotonic()
        offsets = self._offsets.to_commit(consumer.assignment())
        if not offsets:
            return
        try:
            consumer.commit(offsets, timeout_ms=COMMIT_MS_MAX)
            self._offsets.clear()
        except REBALANCED as error:
            log.info("offsets not committed, the messages come again", reason=type(error).__name__)

    def _judge(self, polled: Polled, result: IngestResult) -> None:
        """Shows the messages to the stop rule, in their order. One that contradicts accepted orders
        counts once for each: a flood of those in few messages is one as well. One that isn't the
        counter's counts only where nothing of the counter's comes: whoever can write to the topic
        mustn't stop it.
        """
        forged = result.not_authentic
        for partition, records in polled.items():
            for record in records:
                place = (partition.topic, partition.partition, record.offset)
                if place in forged and not self._hears_nobody():
                    continue
                bad = place in result.bad or place in result.holding or place in forged
                if bad or place not in result.bad_before:
                    for _ in range(result.holding[place] or 1):
                        self._stop_rule.count(bad=bad)

    def _hears_nobody(self) -> bool:
        return time.monotonic() - self._last_authentic > AUTHENTIC_SECONDS_MAX

    def _tell_of_a_wrong_key(self, result: IngestResult) -> None:
        """Where what stopped us were rows without a valid MAC, and no other came."""
        if result.not_authentic and self._hears_nobody():
            fix = "set INTAKE_KEYS to the keys that the counter uses now, start the consumer again, and replay what was refused meanwhile"
            alarm("intake_key_wrong", "no row is shown to be the counter's any more", rows=len(result.not_authentic), fix=fix)

    def _idle(self, assigned: bool) -> None:
        now = time.monotonic()
        if assigned:
            self._last_complaint = now
            if self._idle_seconds is not None and now - self._last_data > self._idle_seconds:
                self._stopping.set()
        elif now - self._last_complaint > UNASSIGNED_SECONDS_MAX:
            self._last_complaint = now
            names = {"topic": settings.KAFKA_TOPIC, "servers": settings.KAFKA_BOOTSTRAP_SERVERS}
            fix = "is the broker up, does the topic exist, and has it more partitions than the group has other members?"
            log.warning("no partitions assigned", fix=fix, **names)


def idle_sleep_seconds(quiet_seconds: float) -> float:
    """The pause before the next poll of a broker that doesn't wait for data (KAFKA_IDLE_SLEEP_MS,
    the longest one) when nothing came for `quiet_seconds`: a tenth of that, so that a flow of
    orders doesn't wait and a quiet night doesn't cost a third of a core.
    """
    return min(max(IDLE_SLEEP_MS_MIN, quiet_seconds * 1000 * IDLE_SHARE), settings.KAFKA_IDLE_SLEEP_MS) / 1000


@contextmanager
def _translated() -> Iterator[None]:
    """Raises MustStop for the errors after which retrying is no use."""
    try:
        yield
    except kafka_errors.FencedInstanceIdError as error:
        fix = f"give each consumer a KAFKA_INSTANCE_ID of its own; this one has {settings.KAFKA_INSTANCE_ID!r}"
        raise MustStop(ExitCode.FENCED, "another member of the group uses our KAFKA_INSTANCE_ID", fix) from error
    except BrokerNotTrusted as error:
        raise MustStop(ExitCode.NOT_ALLOWED, str(error), "correct the settings, then start the consumer again") from error
    except NOT_AUTHENTICATED as error:
        fix = "correct KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, then start the consumer again"
        raise MustStop(ExitCode.NOT_ALLOWED, f"Kafka refuses our credentials: {error}", fix) from error
    except kafka_errors.AuthorizationError as error:
        fix = f"give the consumer's account the right to read {settings.KAFKA_TOPIC!r} and to join its group"
        raise MustStop(ExitCode.NOT_ALLOWED, f"Kafka denies access: {type(error).__name__}", fix) from error


def _items(polled: Polled, rules: Rules) -> list[Item]:
    items: list[Item] = []
    for partition, records in polled.items():
        for record in records:
            origin = Origin(partition.topic, partition.partition, record.offset, record.value or b"", record.timestamp or None)
            reading = read_message(record.value, origin, rules, MESSAGE_ROWS_MAX)
            items.extend(reading.items)
            _report(reading.operations, origin)
    return items


def _report(operations: Sequence[str], origin: Origin) -> None:
    """Counts the operations on the table. A change of the table itself (DDL) is also logged, with
    its statement.
    """
    for operation in operations:
        metrics.INTAKE_CHANGES.labels(operation).inc()
        if operation == "ddl":
            log.warning(TABLE_CHANGED, message=origin.message[:2_000].decode(errors="replace"), partition=origin.partition, offset=origin.offset)


def _backoff(failures: int) -> float:
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]
