import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from structlog.testing import capture_logs

from base.fence import TermOutdated
from orders.backfill import deferred
from orders.backfill.counter_api import InterfaceFailed, Page, Position
from orders.backfill.gap_pass import GapPass, interface_origin
from orders.intake import faults
from orders.intake.classify import Item, read_row
from orders.intake.result import IngestResult
from orders.models import Quarantined, SyncOrder, Watermark
from tests.orders.fakes import FakeClearings, order_ids
from tests.orders.messages import RULES, message, read, row
from tests.support.counter import NOW, OVERLAP, Counter

pytestmark = pytest.mark.django_db(transaction=True)

SINCE = RULES.since_ms
DAY_MS = 86_400_000


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def gap_pass(counter: Counter, clearings: FakeClearings) -> GapPass:
    return GapPass(counter, clearings.ingest_from_gap, RULES, OVERLAP, page_rows=3)


def scanned(shard: int = 0) -> int | None:
    return Watermark.objects.filter(shard=shard).values_list("scanned_through_ms", flat=True).first()


class TestFirstPass:
    def test_of_a_shard_begins_where_intake_does(self, counter: Counter, gap_pass: GapPass) -> None:
        gap_pass.run()

        assert counter.asked == [(0, SINCE, 0)]

    def test_brings_what_was_never_streamed(self, counter: Counter, gap_pass: GapPass, clearings: FakeClearings) -> None:
        for number in range(7):
            counter.commit(f"O{number}", SINCE + number)

        result = gap_pass.run()

        assert order_ids() == clearings.published == [f"O{number}" for number in range(7)]
        assert (result.rows, result.ingested.accepted, result.failed) == (7, 7, {})
        assert set(SyncOrder.objects.values_list("source", "topic", "partition")) == {("gap", "gap:0", 0)}
        assert Watermark.objects.get().found_by_gap == 7

    def test_moves_the_position_to_the_counters_clock_less_the_overlap(self, gap_pass: GapPass) -> None:
        gap_pass.run()

        assert scanned() == NOW - OVERLAP
        assert Watermark.objects.get().scanned_at is not None

    def test_of_a_shard_that_appears_later_begins_there_too(self, counter: Counter, gap_pass: GapPass) -> None:
        gap_pass.run()
        counter.commit("O1", SINCE + 5, shard=7)

        gap_pass.run()

        assert order_ids() == ["O1"]
        assert scanned(7) == NOW - OVERLAP


class TestLaterPasses:
    def test_begin_at_the_position(self, counter: Counter, gap_pass: GapPass) -> None:
        gap_pass.run()
        counter.asked.clear()

        gap_pass.run()

        assert counter.asked == [(0, NOW - OVERLAP, 0)]

    def test_find_a_row_that_was_committed_late_inside_the_overlap(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.commit("O1", NOW)
        gap_pass.run()
        counter.now_ms = NOW + 3_000
        counter.commit("O2", NOW - OVERLAP + 1)

        gap_pass.run()

        assert order_ids() == ["O1", "O2"]

    def test_never_move_the_position_back(self, counter: Counter, gap_pass: GapPass) -> None:
        gap_pass.run()
        counter.now_ms = NOW - 500_000

        gap_pass.run()

        assert scanned() == NOW - OVERLAP

    def test_know_what_the_consumer_brought(self, counter: Counter, gap_pass: GapPass, clearings: FakeClearings) -> None:
        counter.commit("O1", 1_767_323_045_678, shard=2)
        clearings.ingest(read(message(row("O1", user_id="O1"))))

        result = gap_pass.run()

        assert (result.ingested.known, result.ingested.accepted, clearings.held) == (1, 0, [])


class TestRowsInPages:
    def test_with_equal_milliseconds_over_a_boundary_are_all_found(self, counter: Counter, gap_pass: GapPass) -> None:
        for number in range(10):
            counter.commit(f"O{number}", SINCE + 77)

        gap_pass.run()

        assert len(order_ids()) == 10

    def test_at_the_very_position_are_found(self, counter: Counter, gap_pass: GapPass) -> None:
        gap_pass.run()
        counter.commit("O1", NOW - OVERLAP)

        gap_pass.run()

        assert order_ids() == ["O1"]

    def test_with_a_time_in_the_future_are_found_and_hide_nothing(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.commit("FUTURE", NOW + 3_600_000)
        gap_pass.run()
        counter.now_ms = NOW + 5_000
        counter.commit("O1", NOW + 4_000)

        gap_pass.run()

        assert order_ids() == ["FUTURE", "O1"]
        assert scanned() == NOW + 5_000 - OVERLAP

    def test_of_other_kinds_are_counted(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.commit("F1", SINCE + 1, kind="DEPOSIT", direction=None, asset=None)

        assert gap_pass.run().ingested.filtered == 1

    def test_that_are_refused_are_quarantined_once_and_delay_no_other(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.commit("BAD", NOW - 1, asset="DOGE", instrument="half a \ud800 surrogate")
        counter.commit("O1", NOW - 1)
        gap_pass.run()

        gap_pass.run()

        assert order_ids() == ["O1"]
        kept = Quarantined.objects.get()
        assert (kept.topic, kept.partition, kept.offset, kept.order_id) == ("gap:0", 0, 1, "BAD")
        assert kept.reason == "refused:unknown_asset"
        assert b"DOGE" in bytes(kept.message or b"")

    def test_with_other_contents_hold(self, counter: Counter, gap_pass: GapPass, clearings: FakeClearings) -> None:
        counter.commit("O1", NOW)
        gap_pass.run()
        counter.rows[0][0][2]["quantity"] = "9"

        gap_pass.run()
        gap_pass.run()

        assert clearings.held == [("O1", "contents_differ")]


class TestFromAnEarlierTime:
    def test_finds_what_lies_behind_the_position_and_leaves_that_where_it_is(self, counter: Counter, gap_pass: GapPass) -> None:
        gap_pass.run()
        counter.commit("VERY-LATE", SINCE + 5)
        counter.now_ms = NOW - 1
        gap_pass.run()
        assert order_ids() == []

        gap_pass.run(since_ms=SINCE + 1)

        assert (order_ids(), scanned()) == (["VERY-LATE"], NOW - OVERLAP)
        assert Watermark.objects.get().found_by_gap == 1

    def test_after_the_position_leaves_nothing_out(self, counter: Counter, gap_pass: GapPass) -> None:
        gap_pass.run()
        counter.commit("O1", NOW - OVERLAP + 1)
        counter.now_ms = NOW + 500_000

        gap_pass.run(since_ms=NOW + 100_000)

        assert order_ids() == ["O1"]


class TestClocks:
    def test_of_the_counter_ahead_for_one_answer_hide_nothing(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.now_ms = NOW + DAY_MS
        gap_pass.run()
        counter.now_ms = NOW + 3_000
        counter.commit("LOST", NOW + 1_000)

        gap_pass.run()

        assert order_ids() == ["LOST"]

    def test_of_the_counter_ahead_move_a_position_no_further_than_ours_allows(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.now_ms = our_now_ms() + DAY_MS

        gap_pass.run()

        assert NOW < (scanned() or 0) <= our_now_ms() + settings.CLOCK_SKEW_SECONDS_MAX * 1000 - OVERLAP

    def test_are_told_of_when_a_position_lies_ahead_and_it_goes_back(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.now_ms = our_now_ms()
        Watermark.objects.create(shard=0, scanned_through_ms=counter.now_ms + DAY_MS)

        with capture_logs() as lines:
            gap_pass.run()
            gap_pass.run()

        assert [line["alarm"] for line in lines if "alarm" in line] == ["gap_position_ahead"]
        assert scanned() == counter.now_ms - OVERLAP


class TestInternalErrors:
    """BAD can't be opened; LOST, on a later page, can."""

    @pytest.fixture(autouse=True)
    def fails_with_bad(self, clearings: FakeClearings) -> None:
        clearings.while_opening = lambda accepted: fail_with_ours() if "BAD" in {stored.order.order_id for stored in accepted} else None

    def test_keep_no_later_page_out_and_are_the_order_s_where_that_got_in(
        self, counter: Counter, clearings: FakeClearings, gap_pass: GapPass
    ) -> None:
        known = [f"K{number}" for number in range(4)]
        for number, order_id in enumerate(known[:2]):
            counter.commit(order_id, NOW + number)
        gap_pass.run()
        counter.commit("BAD", NOW + 2)
        for number, order_id in enumerate([*known[2:], "LOST"]):
            counter.commit(order_id, NOW + 3 + number)
        clearings.ingest_from_gap(
            [read_row(columns, interface_origin("gap:", 0, columns), RULES) for *_, columns in counter.rows[0] if columns["id"] in "45"]
        )
        clearings.others_succeeded = faults.success_since()

        result = gap_pass.run()

        assert (order_ids(), result.failed) == ([*known, "LOST"], {})
        assert list(Quarantined.objects.values_list("order_id", "reason")) == [("BAD", "internal_error")]

    def test_that_nothing_speaks_against_keep_the_position_and_raise_the_alarm(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.commit("BAD", NOW)

        with capture_logs() as lines:
            result = gap_pass.run()

        assert (list(result.failed), scanned(), Quarantined.objects.count()) == (["0"], None, 0)
        assert [line["alarm"] for line in lines if "alarm" in line] == ["intake_fault"]

    def test_are_the_order_s_where_another_shard_s_got_in(self, counter: Counter, clearings: FakeClearings, gap_pass: GapPass) -> None:
        counter.commit("BAD", NOW, shard=0)
        counter.commit("LOST", NOW, shard=1)
        clearings.others_succeeded = faults.success_since()

        assert gap_pass.run().failed == {}

        assert (order_ids(), Quarantined.objects.get().order_id, scanned()) == (["LOST"], "BAD", NOW - OVERLAP)

    def test_on_page_after_page_end_the_shard(self, counter: Counter, clearings: FakeClearings, gap_pass: GapPass) -> None:
        clearings.while_opening = lambda _: fail_with_ours()
        for number in range(3 * deferred.DEFERRED_MAX + 30):
            counter.commit(f"O{number}", SINCE + number)

        gap_pass.run()

        assert len(counter.asked) == deferred.DEFERRED_MAX + 1


class TestFailures:
    def test_of_a_shard_leave_its_position_and_the_others_go_on(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.commit("O1", SINCE + 1, shard=1)
        counter.away = {0}

        result = gap_pass.run()

        assert result.failed == {"0": "status 500"}
        assert (scanned(0), scanned(1)) == (None, NOW - OVERLAP)
        assert order_ids() == ["O1"]

    def test_that_end_the_pass_keep_what_earlier_shards_reached(self, counter: Counter, clearings: FakeClearings, gap_pass: GapPass) -> None:
        counter.commit("O1", SINCE + 5, shard=0)
        counter.commit("O2", SINCE + 5, shard=7)

        def take(items: Sequence[Item]) -> IngestResult:
            if clearings.opened:
                raise TermOutdated
            return clearings.ingest_from_gap(items)

        with pytest.raises(TermOutdated):
            replace(gap_pass, intake=take).run()

        assert (scanned(0), scanned(7)) == (NOW - OVERLAP, None)

    def test_in_the_middle_of_a_shard_keep_what_was_found(self, counter: Counter, clearings: FakeClearings, gap_pass: GapPass) -> None:
        for number in range(7):
            counter.commit(f"O{number}", SINCE + number)
        breaking = replace(gap_pass, intake=lambda items: clearings.ingest_from_gap(items) if len(clearings.opened) < 3 else fail())

        result = breaking.run()

        assert list(result.failed) == ["0"]
        assert (len(order_ids()), scanned()) == (3, 0)
        assert Watermark.objects.get().found_by_gap == 3

    def test_for_ten_minutes_lose_nothing(self, counter: Counter, gap_pass: GapPass) -> None:
        gap_pass.run()
        counter.away = {0}
        for second in range(0, 600, 60):
            counter.now_ms = NOW + second * 1000
            counter.commit(f"O{second:03d}", counter.now_ms)
            gap_pass.run()
        counter.away = set()

        gap_pass.run()

        assert len(order_ids()) == 10

    def test_of_ours_leave_the_position_and_the_others_go_on(self, counter: Counter, clearings: FakeClearings, gap_pass: GapPass) -> None:
        counter.commit("O0", SINCE + 1, shard=0)
        counter.commit("O1", SINCE + 1, shard=1)
        clearings.while_opening = lambda accepted: fail_with_ours() if accepted[0].order.shard == 0 else None

        result = gap_pass.run()

        assert (list(result.failed), scanned(0), scanned(1)) == (["0"], None, NOW - OVERLAP)
        assert (order_ids(), Quarantined.objects.count()) == (["O1"], 0)

    def test_of_the_whole_counter_are_reported(self, counter: Counter, gap_pass: GapPass) -> None:
        counter.rows = {}

        assert gap_pass.run().failed == {"list": "the counter is down"}

    def test_a_counter_that_leads_in_a_circle_is_left(self, counter: Counter, gap_pass: GapPass, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(counter, "page", lambda *_: Page(NOW, (), Position(SINCE, 0)))

        assert "followed by" in gap_pass.run().failed["0"]


def our_now_ms() -> int:
    return int(time.time() * 1000)


def fail() -> Any:
    raise InterfaceFailed("the counter went away")


def fail_with_ours() -> None:
    raise KeyError("an internal error")
