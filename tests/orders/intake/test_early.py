"""Orders from the future: whatever way they come, they are refused until their time (design, rule
15).
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from pytest_django import Settings
from structlog.testing import capture_logs

from base.clock import shift_clock
from orders.backfill.gap_pass import GapPass
from orders.backfill.replay import replay_quarantined
from orders.intake.classify import EARLY, Origin, read_row
from orders.intake.mapping import CREATED_MS_MAX, Refused, from_binlog, from_interface
from orders.models import Quarantined, Source, SyncOrder, Watermark
from orders.stream.stop_rule import StopRule
from tests.orders.fakes import FakeClearings, order_ids, reasons
from tests.orders.messages import RULES, interface_row, message, read, row
from tests.support.counter import OVERLAP, Counter

pytestmark = pytest.mark.django_db(transaction=True)
DAY_MS = 86_400_000


@pytest.fixture(autouse=True)
def clock_of_now(transactional_db: None) -> Iterator[None]:
    yield
    shift_clock(0)


def now_ms() -> int:
    return int(time.time() * 1000)


def written(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def from_kafka(order_id: str, ms: int) -> bytes:
    return message(row(order_id, user_id=order_id, created_at=written(ms)))


class TestAnOrderFromTheFuture:
    def test_is_quarantined_with_an_alarm_and_the_others_are_accepted(self, clearings: FakeClearings) -> None:
        with capture_logs() as lines:
            result = clearings.ingest(read(from_kafka("LATER", now_ms() + DAY_MS), from_kafka("NOW", now_ms())))

        assert (order_ids(), reasons()) == (["NOW"], [("LATER", EARLY)])
        assert (result.accepted, result.refused, clearings.opened) == (1, 1, ["NOW"])
        [alarm] = [line for line in lines if "alarm" in line]
        assert (alarm["alarm"], alarm["orders"], alarm["order_ids"]) == ("from_the_future", 1, ["LATER"])

    def test_within_a_minute_beyond_what_clocks_may_differ_is_accepted(self, clearings: FakeClearings, settings: Settings) -> None:
        clearings.ingest(read(from_kafka("O1", now_ms() + int(settings.CLOCK_SKEW_SECONDS_MAX * 1000) + 55_000)))

        assert order_ids() == ["O1"]

    def test_of_a_century_ahead_raises_no_position(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(from_kafka("O1", 4_000_000_000_000)))

        assert (order_ids(), Watermark.objects.count()) == ([], 0)

    def test_is_no_bad_message_for_the_stop_rule(self, clearings: FakeClearings) -> None:
        result = clearings.ingest(read(*(from_kafka(f"O{number}", now_ms() + DAY_MS) for number in range(5))))

        assert (result.refused, result.bad, result.bad_before) == (5, set(), set())
        assert not StopRule().broken

    def test_that_comes_twice_is_quarantined_with_both_its_contents(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(from_kafka("O1", now_ms() + DAY_MS), from_kafka("O1", now_ms() + 2 * DAY_MS)))

        assert (order_ids(), reasons()) == ([], [("O1", EARLY)] * 2)

    def test_leaves_another_row_of_its_id_to_be_accepted(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(from_kafka("O1", now_ms() + DAY_MS), from_kafka("O1", now_ms())))

        assert (order_ids(), reasons()) == (["O1"], [("O1", EARLY)])

    @pytest.mark.parametrize("source", [Source.GAP, Source.REPLAY, Source.RESTORE])
    def test_is_refused_from_every_other_source_as_well(self, clearings: FakeClearings, source: Source) -> None:
        columns = interface_row("O1", created_ms=str(now_ms() + DAY_MS))

        clearings.ingest([read_row(columns, Origin("gap:2", 2, 17, columns), RULES)], source)

        assert (order_ids(), reasons()) == ([], [("O1", EARLY)])

    def test_is_still_refused_when_it_is_replayed_and_accepted_when_its_time_has_come(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(from_kafka("O1", now_ms() + DAY_MS)))
        waiting = Quarantined.objects.get()

        early = replay_quarantined(waiting, RULES, lambda items: clearings.ingest(items, Source.REPLAY))
        shift_clock(86_400)
        due = replay_quarantined(waiting, RULES, lambda items: clearings.ingest(items, Source.REPLAY))

        assert (early.went_in, due.went_in, order_ids()) == (False, True, ["O1"])
        assert Quarantined.objects.filter(replayed_at=None).count() == 0


class TestGapPasses:
    def test_bring_it_when_its_time_has_come_and_pile_nothing_up_before(self, clearings: FakeClearings) -> None:
        counter = Counter(now_ms())
        clearings.ingest(read(from_kafka("O1", now_ms() + DAY_MS)))
        counter.commit("O1", now_ms() + DAY_MS, shard=2)
        gap_pass = GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, page_rows=10)

        refused = [gap_pass.run().ingested.refused for _ in range(5)]
        shift_clock(86_400)
        accepted = gap_pass.run().ingested.accepted

        assert (refused, accepted, order_ids()) == ([1, 0, 0, 0, 0], 1, ["O1"])
        assert Quarantined.objects.count() == 2  # as Kafka brought it, and as the counter's interface did
        assert clearings.held == []
        assert SyncOrder.objects.get().source == "gap"

    def test_leave_nothing_of_it_open_in_quarantine(self, clearings: FakeClearings) -> None:
        counter = Counter(now_ms())
        counter.commit("O1", now_ms() + DAY_MS, shard=2)
        gap_pass = GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, page_rows=10)
        gap_pass.run()
        shift_clock(86_400)

        gap_pass.run()

        assert (order_ids(), Quarantined.objects.filter(replayed_at=None).count()) == (["O1"], 0)


class TestTheEndOfTime:
    @pytest.mark.parametrize("created_at", ["9999-12-31 23:59:59-14:00", "9999-12-31T23:59:59.999-00:01"])
    def test_is_the_same_for_a_time_with_a_zone(self, created_at: str) -> None:
        with pytest.raises(Refused, match="bad_timestamp"):
            from_binlog(row(created_at=created_at), RULES)

    def test_and_for_the_zone_of_the_setting(self) -> None:
        with pytest.raises(Refused, match="bad_timestamp"):
            from_binlog(row(created_at="9999-12-31 23:59:59"), replace(RULES, zone=ZoneInfo("America/New_York")))

    def test_and_for_the_interface(self) -> None:
        from_interface(interface_row(created_ms=str(CREATED_MS_MAX)), RULES)
        with pytest.raises(Refused, match="bad_timestamp"):
            from_interface(interface_row(created_ms=str(CREATED_MS_MAX + 1)), RULES)

    def test_is_quarantined_from_kafka(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1", created_at="9999-12-31 23:59:59-14:00"))))

        assert (order_ids(), reasons()) == ([], [("O1", "refused:bad_timestamp")])


def test_the_quarantined_row_of_the_interface_reads_as_it_was(clearings: FakeClearings) -> None:
    columns = interface_row("O1", created_ms=str(now_ms() + DAY_MS))

    clearings.ingest([read_row(columns, Origin("gap:2", 2, 17, columns), RULES)], Source.GAP)

    assert json.loads(bytes(Quarantined.objects.get().message or b"")) == columns
