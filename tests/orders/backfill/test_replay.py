"""Reading again: parts of the log, and of the quarantine, by the command that operators use."""

import gc
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils.timezone import now
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata
from pytest_django import Settings

from clearing import opening as clearing_intake
from clearing.dispatch import broker
from clearing.flow.flows import OrderFacts
from clearing.models import Clearing, RestorePoint
from clearing.store import recovery
from orders.backfill.replay import Replay, replay_quarantined
from orders.backfill.verdicts import Tally, Verdict
from orders.intake.classify import Item
from orders.intake.mapping import NewOrder
from orders.intake.result import IngestResult
from orders.models import Quarantined, Source, SyncOrder
from orders.stream.topic_reader import LogReader, Span, open_reader
from tests.orders.conftest import Topic
from tests.orders.fakes import FakeClearings
from tests.orders.messages import RULES, inserts, message, origin, read, row

pytestmark = pytest.mark.django_db(transaction=True)
WRITTEN_MS = int(time.time() * 1000) - 60_000  # not so old that the log's retention takes it
FACTS = clearing_intake._facts
BAD = message(row("BAD", user_id="BAD", asset="DOGE"))


def orders(*numbers: int) -> list[bytes]:
    return [message(row(f"O{number:04d}", user_id=str(number), contract_id=f"C{number}")) for number in numbers]


def stored() -> list[str]:
    return list(SyncOrder.objects.order_by("order_id").values_list("order_id", flat=True))


@pytest.fixture
def empty_broker() -> Iterator[None]:
    broker.client().flushdb()
    yield
    broker.client().flushdb()
    with warnings.catch_warnings():  # kafka-python leaves a socket open when its client is closed while it connects
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class TestVerdicts:
    def test_say_what_each_row_is(self, clearings: FakeClearings) -> None:
        clearings.ingest(inserts(["KNOWN", "CHANGED"]))
        rows = [
            message(row("NEW", user_id="1")),
            message(row("NEW", user_id="1")),
            message(row("KNOWN", user_id="KNOWN", contract_id="C-KNOWN", quantity="0.05")),
            message(row("CHANGED", user_id="CHANGED", contract_id="C-CHANGED", quantity="7")),
            message(row("FEE", kind="FEE")),
            BAD,
            b"no message",
        ]
        replay = Replay(RULES, None)

        replay.run([(raw, origin(raw)) for raw in rows])

        assert replay.tally == Tally(new=1, known=2, filtered=1, refused=2, differs=1)

    def test_of_a_dry_run_count_an_order_once_over_its_batches(self) -> None:
        replay = Replay(RULES, None)

        for raw in orders(1, 1):
            replay.run([(raw, origin(raw))])

        assert (replay.tally, stored()) == (Tally(new=1, known=1), [])

    def test_call_known_what_the_consumer_brought_meanwhile(self, clearings: FakeClearings) -> None:
        def overtaken(items: Sequence[Item]) -> IngestResult:
            clearings.ingest(items)
            return clearings.ingest(items, Source.REPLAY)

        replay = Replay(RULES, overtaken)

        replay.run([(raw, origin(raw)) for raw in orders(1, 2)])

        assert replay.tally == Tally(known=2)

    def test_call_refused_what_the_database_refuses(self, clearings: FakeClearings) -> None:
        odd = message(row("O1", instrument="half a \ud800 surrogate"))
        replay = Replay(RULES, lambda items: clearings.ingest(items, Source.REPLAY))

        replay.run([(raw, origin(raw)) for raw in (odd, *orders(2))])

        assert (replay.tally.new, replay.tally.refused) == (1, 1)


class TestPartsOfTheLog:
    @pytest.fixture
    def reader(self, topic: Topic) -> Iterator[LogReader]:
        producer = KafkaProducer(bootstrap_servers=topic.servers, metrics_enabled=False)
        for number, raw in enumerate(orders(*range(10))):
            producer.send(topic.name, raw, partition=1, timestamp_ms=WRITTEN_MS + number * 1000)
        producer.flush()
        producer.close()
        with open_reader([topic.servers], topic.name) as opened:
            yield opened

    def test_by_offsets_have_both_ends(self, reader: LogReader) -> None:
        spans = reader.by_offsets(3, 5)

        assert [found.offset for batch in reader.read(spans, 2) for _, found in batch] == [3, 4, 5]

    def test_beyond_the_log_are_what_it_has(self, reader: LogReader) -> None:
        assert [span for span in reader.by_offsets(8, 99) if span.messages] == [Span(1, 8, 10)]

    def test_by_times_have_their_beginning_and_not_their_end(self, reader: LogReader) -> None:
        found = [span for span in reader.by_times(WRITTEN_MS + 3000, WRITTEN_MS + 6000) if span.messages]

        assert found == [Span(1, 3, 6)]

    def test_until_now_reach_the_end(self, reader: LogReader) -> None:
        assert Span(1, 8, 10) in reader.by_times(WRITTEN_MS + 7001, WRITTEN_MS + 3_600_000)

    def test_without_a_message_end_at_once(self, reader: LogReader) -> None:
        assert list(reader.read(reader.by_offsets(50, 60), 10)) == []


def replay(*arguments: str, code: int = 0) -> dict[str, Any]:
    """Runs the command to its end; its report."""
    out = StringIO()
    ended = 0
    try:
        call_command("replay", *arguments, "--json", stdout=out, stderr=sys.stderr)
    except SystemExit as stop:
        ended = int(stop.code or 0)
    assert ended == code, out.getvalue()
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in ("messages", "new", "known", "filtered", "refused", "differs") if report[name]}


@pytest.mark.usefixtures("empty_broker")
class TestTheCommand:
    def test_brings_what_is_missing_with_its_clearing(self, topic: Topic) -> None:
        topic.send(*orders(*range(6)), partition=2)

        report = replay("--partition", "2", "--from-offset", "1", "--to-offset", "3")

        assert counts(report) == {"messages": 3, "new": 3}
        assert stored() == ["O0001", "O0002", "O0003"]
        assert set(SyncOrder.objects.values_list("source", "topic", "partition")) == {("replay", topic.name, 2)}
        assert Clearing.objects.count() == 3

    def test_again_finds_all_known(self, topic: Topic) -> None:
        topic.send(*orders(*range(6)))
        replay("--from-time", "2020-01-01")

        assert counts(replay("--from-time", "2020-01-01", "--to-time", "2099-01-01")) == {"messages": 6, "known": 6}
        assert Clearing.objects.count() == 6

    def test_dry_writes_nothing_at_all(self, topic: Topic) -> None:
        topic.send(*orders(1, 2), BAD)

        report = replay("--from-time", "2020-01-01", "--dry-run", code=1)

        assert counts(report) == {"messages": 3, "new": 2, "refused": 1}
        assert (stored(), Quarantined.objects.count(), Clearing.objects.count(), broker.client().dbsize()) == ([], 0, 0, 0)

    def test_of_one_order_brings_no_other(self, topic: Topic) -> None:
        topic.send(message(row("A", user_id="1"), row("B", user_id="2")), *orders(3))

        report = replay("--order-id", "B")

        assert (counts(report), stored()) == ({"messages": 2, "new": 1}, ["B"])

    def test_says_when_the_order_is_nowhere(self, topic: Topic, capsys: pytest.CaptureFixture[str]) -> None:
        topic.send(*orders(3))

        replay("--order-id", "NOWHERE", code=1)

        assert "no message tells of NOWHERE" in capsys.readouterr().err

    def test_quarantines_what_is_bad_and_says_so(self, topic: Topic) -> None:
        topic.send(BAD, *orders(1), partition=0)

        report = replay("--from-offset", "0", "--to-offset", "9", code=1)

        assert counts(report) == {"messages": 2, "new": 1, "refused": 1}
        assert Quarantined.objects.get().source == "replay"

    def test_leaves_the_group_where_it_is(self, topic: Topic) -> None:
        topic.send(*orders(*range(4)), partition=0)
        place = TopicPartition(topic.name, 0)
        member = KafkaConsumer(bootstrap_servers=topic.servers, group_id=topic.name, enable_auto_commit=False, metrics_enabled=False)
        member.assign([place])
        member.commit({place: OffsetAndMetadata(1, "", -1)})

        replay("--from-time", "2020-01-01")

        committed = member.committed(place)
        member.close()
        assert committed == 1

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ([], "say what to replay"),
            (["--order-id", "O1", "--quarantined"], "say what to replay"),
            (["--from-offset", "3"], "go together"),
            (["--to-time", "2026-01-01"], "needs --from-time"),
            (["--order-id", "O1", "--reason", "unreadable"], "goes with --quarantined"),
            (["--quarantined", "--partition", "1"], "of the log"),
            (["--order-id", "O1", "--partition", "77"], "no partition 77"),
            (["--order-id", "O1", "--topic", "not-there"], "no topic"),
            (["--from-time", "yesterday"], "isn't a time"),
            (["--from-offset", "-1"], "isn't a whole number"),
        ],
    )
    def test_explains_what_it_can_not_do(self, topic: Topic, arguments: list[str], said: str) -> None:
        with pytest.raises(CommandError, match=said):
            call_command("replay", *arguments)

    def test_explains_that_no_broker_answers(self, settings: Settings) -> None:
        settings.KAFKA_BOOTSTRAP_SERVERS = ["127.0.0.1:1"]

        with pytest.raises(CommandError, match="Kafka unavailable") as found:
            call_command("replay", "--order-id", "O1")
        assert found.value.returncode == 2


class TestQuarantined:
    def test_messages_go_in_once_what_was_wrong_is_mended(self, clearings: FakeClearings, settings: Settings) -> None:
        clearings.ingest(read(BAD))
        settings.ASSET_SCALES = {**settings.ASSET_SCALES, "DOGE": 8}

        report = replay("--quarantined")

        assert (counts(report), stored()) == ({"messages": 1, "new": 1}, ["BAD"])
        assert Quarantined.objects.get().replayed_at is not None

    def test_messages_that_are_still_refused_stay(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(BAD, b"garbage"))

        report = replay("--quarantined", code=1)

        assert [(found["verdict"], found["went_in"]) for found in report["quarantined"]] == [("refused", False)] * 2
        assert Quarantined.objects.filter(replayed_at=None).count() == 2

    def test_messages_are_chosen_by_reason_and_never_twice(self, clearings: FakeClearings, settings: Settings) -> None:
        clearings.ingest(read(BAD, b"garbage"))
        settings.ASSET_SCALES = {**settings.ASSET_SCALES, "DOGE": 8}

        first, second = (replay("--quarantined", "--reason", "refused:unknown_asset") for _ in range(2))

        assert (first["messages"], second["messages"]) == (1, 0)

    def test_rows_of_the_interface_are_read_as_what_they_are(self, clearings: FakeClearings) -> None:
        from orders.intake.classify import Origin, read_row
        from tests.orders.messages import interface_row

        odd = interface_row("O1", asset="DOGE", id="9")
        clearings.ingest([read_row(odd, Origin("gap:2", 2, 9, json.dumps(odd, sort_keys=True).encode()), RULES)])
        wider = RULES.__class__(RULES.table, RULES.exchange_kinds, RULES.since_ms, {**RULES.scales, "DOGE": 8})

        found = replay_quarantined(Quarantined.objects.get(), wider, lambda items: clearings.ingest(items, Source.REPLAY))

        assert (found.verdict, found.went_in, stored()) == (Verdict.NEW, True, ["O1"])

    def test_messages_that_tell_otherwise_of_an_order_stay_for_a_person(self, clearings: FakeClearings) -> None:
        clearings.ingest(inserts(["O1"]))
        clearings.ingest(read(message(row("O1", user_id="O1", contract_id="C-O1", quantity="9"))))

        found = replay_quarantined(Quarantined.objects.get(), RULES, clearings.ingest)

        assert (found.verdict, found.went_in, clearings.held) == (Verdict.DIFFERS, False, [("O1", "contents_differ")])
        assert Quarantined.objects.get().replayed_at is None

    def test_one_that_we_fail_with_keeps_no_other_out(self, clearings: FakeClearings, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        clearings.ingest(read(BAD, message(row("GOOD", user_id="GOOD", contract_id="C", asset="DOGE"))))
        settings.ASSET_SCALES = {**settings.ASSET_SCALES, "DOGE": 8}
        monkeypatch.setattr(clearing_intake, "_facts", fails_with_bad)

        report = replay("--quarantined", code=1)

        assert (counts(report), stored()) == ({"messages": 2, "new": 1, "refused": 1}, ["GOOD"])
        assert dict(Quarantined.objects.filter(replayed_at=None).values_list("order_id", "reason")) == {"BAD": "refused:unknown_asset"}

    def test_dry_changes_nothing(self, clearings: FakeClearings, settings: Settings) -> None:
        clearings.ingest(read(BAD))
        settings.ASSET_SCALES = {**settings.ASSET_SCALES, "DOGE": 8}

        report = replay("--quarantined", "--dry-run")

        assert (counts(report), stored(), Quarantined.objects.get().replayed_at) == ({"messages": 1, "new": 1}, [], None)


def fails_with_bad(order: NewOrder) -> OrderFacts:
    if order.order_id == "BAD":
        raise ZeroDivisionError("no plan for this order")
    return FACTS(order)


class TestRestored:
    @pytest.mark.parametrize("database", [None, "", "7312345678901234567:16384:00000001"])
    def test_is_refused_before_this_restore_was_said(self, database: str | None) -> None:
        if database is not None:
            RestorePoint.objects.create(through_ms=0, reason="an older one, which the backup holds", actor="test", database=database)

        with pytest.raises(CommandError, match="mark_restored") as refused:
            call_command("replay", "--from-time=2026-01-01", "--restored")

        assert refused.value.returncode == 2

    def test_is_refused_days_after_the_restore_was_said(self) -> None:
        recovery.mark_restored(0, reason="test", actor="test")
        RestorePoint.objects.update(at=now() - timedelta(days=2))

        with pytest.raises(CommandError, match="within a day"):
            call_command("replay", "--from-time=2026-01-01", "--restored")

    def test_marks_what_comes_in(self, topic: Topic, empty_broker: None) -> None:
        recovery.mark_restored(0, reason="test", actor="test")
        topic.send(*orders(1))

        call_command("replay", f"--topic={topic.name}", "--from-time=2026-01-01", "--restored", stdout=StringIO())

        assert [(clearing.restored, clearing.order.source) for clearing in Clearing.objects.select_related("order")] == [(True, Source.RESTORE)]
