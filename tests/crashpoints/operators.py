"""What operators and the leader's jobs do to get orders in: gap pass, reconcile, replay, and what
follows a restore. By the commands themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from io import StringIO
from types import SimpleNamespace
from typing import Any, Final

from django.apps import apps
from django.core.management import call_command
from django.db import connection, transaction
from kafka import TopicPartition

from acceptance_site.celery import app
from clearing.store import recovery
from ops import wiring
from ops.management.commands import replay as replay_command
from orders.models import FirstStart
from orders.stream.topic_reader import LogReader
from tests.crashpoints.clock import clock
from tests.crashpoints.process import Process
from tests.crashpoints.service import PARTITION
from tests.support.states import rewritable

HOUR_MS: Final = 3_600_000
EVERYTHING: Final = 1_000  # messages; the log has fewer
BACKED_UP: Final = ("orders", "clearing")  # the apps whose tables a restore brings back


def gap_pass(_: Process) -> None:
    """A gap pass over every shard, by hand."""
    result = wiring.run_gap_pass()
    assert result is not None
    assert not result.failed, result.failed


def gap_job(_: Process) -> None:
    """The same as the leader's job, under the fence."""
    app.tasks["ops.gap_pass"]()


def reconcile_job(_: Process) -> None:
    """The leader's reconcile, under the fence."""
    app.tasks["ops.reconcile"]()


def skip_the_log(process: Process) -> None:
    """The group's offset was moved to the end of the log: what lies there is never consumed."""
    process.ask("commit", len(process.ask("read", (0, EVERYTHING))))


def replay(*arguments: str) -> Callable[[Process], None]:
    """`manage.py replay …` as a body."""
    return partial(_replay, arguments=arguments)


def _replay(process: Process, *, arguments: Sequence[str]) -> None:
    def open_reader(_servers: object, topic: str, partition: int | None) -> Any:
        log: Any = _Log(process)
        return nullcontext(LogReader(log, topic, partition))

    command: Any = replay_command
    command.open_reader = open_reader  # of this process
    call_command("replay", *arguments, stdout=StringIO())


class _Log:
    """As `kafka.KafkaConsumer` without a group, of the host's log."""

    def __init__(self, process: Process) -> None:
        self._messages: Sequence[tuple[int, bytes]] = process.ask("read", (0, EVERYTHING))
        self._position = 0

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return {PARTITION.partition}

    def beginning_offsets(self, places: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    def end_offsets(self, places: Sequence[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, len(self._messages))

    def assign(self, places: Sequence[TopicPartition]) -> None:
        pass

    def seek(self, _place: TopicPartition, offset: int) -> None:
        self._position = offset

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Any]]:
        found = self._messages[self._position : self._position + max_records]
        self._position += len(found)
        return {PARTITION: [SimpleNamespace(value=value, offset=offset, timestamp=0) for offset, value in found]}

    def position(self, _place: TopicPartition, timeout_ms: int) -> int:
        return self._position

    def pause(self, _place: TopicPartition) -> None:
        pass


def mark_restored(_: Process, ahead_ms: int = HOUR_MS) -> None:
    """The operator says that the database was restored; the restore point is so far ahead of
    now.
    """
    recovery.mark_restored(clock.now_ms() + ahead_ms, reason="the disk of db-1 was lost", actor="operator")


def lose_the_database(_: Process) -> None:
    """The backup that is restored is older than every order, and younger than the first start."""
    models = [model for name in BACKED_UP for model in apps.get_app_config(name).get_models() if model is not FirstStart]
    tables = [model._meta.db_table for model in models]
    with rewritable(), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("; ".join(f'DELETE FROM "{table}"' for table in tables))


def mark_and_replay(process: Process) -> None:
    """What the runbook says of a restore. The restore point lies before the orders, so that the
    replay alone tells that they may have been run.
    """
    mark_restored(process, ahead_ms=-HOUR_MS)
    _replay(process, arguments=("--from-offset", "0", "--to-offset", "99", "--restored"))
