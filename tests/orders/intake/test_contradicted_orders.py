"""Messages that contradict an order, before it is accepted or again after an operator has released
it: none is ignored, and none puts the order on hold twice.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from django.db import OperationalError, connection, transaction

from orders.backfill.gap_pass import interface_origin
from orders.backfill.replay import replay_quarantined
from orders.backfill.verdicts import Verdict
from orders.intake import quarantine
from orders.intake.classify import Item, read_message, read_row
from orders.intake.ingest import AcceptedOrder
from orders.intake.order_store import lock_out_inserts
from orders.models import Quarantined, Source, SyncOrder
from tests.orders.fakes import FakeClearings
from tests.orders.messages import RULES, inserts, interface_row, message, origin, row, updated
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
DELETED = [("O1", "deleted_at_counter")]
DIFFERS = [("O1", "contents_differ")]


def at(offset: int, raw: bytes) -> list[Item]:
    """The items of a message at this place of the topic's one partition."""
    return read_message(raw, origin(raw, offset=offset), RULES).items


def from_the_counter(**changes: str) -> list[Item]:
    """O1 as the gap pass reads it."""
    columns = interface_row("O1", **changes)
    return [read_row(columns, interface_origin("gap:", 2, columns), RULES)]


def reasons() -> list[str]:
    return list(Quarantined.objects.order_by("id").values_list("reason", flat=True))


class TestADeletion:
    def test_read_before_the_gap_pass_brought_the_order_holds_it_once(self, clearings: FakeClearings) -> None:
        deletion = at(5, message(row("O1"), kind="DELETE"))
        clearings.ingest(deletion)

        clearings.ingest_from_gap(from_the_counter())
        clearings.ingest(deletion)

        assert (clearings.held, clearings.opened, reasons()) == (DELETED, ["O1"], ["deleted_at_counter"])

    def test_holds_in_the_transaction_that_stores_the_order(self, clearings: FakeClearings, monkeypatch: pytest.MonkeyPatch) -> None:
        clearings.ingest(at(5, message(row("O1"), kind="DELETE")))
        monkeypatch.setattr(clearings, "hold", broken_hold)

        with pytest.raises(OperationalError):
            clearings.ingest_from_gap(from_the_counter())

        assert (SyncOrder.objects.count(), reasons(), clearings.published) == (0, ["deleted_unknown"], [])

    def test_read_while_the_order_is_being_stored_waits_for_it(self, clearings: FakeClearings) -> None:
        reader, inside, go_on = FakeClearings(), threading.Event(), threading.Event()

        def hesitate(_: Sequence[AcceptedOrder]) -> None:
            inside.set()
            go_on.wait(20)

        clearings.while_opening = hesitate
        storing = threading.Thread(target=in_a_thread, args=(clearings.ingest_from_gap, from_the_counter()))
        deleting = threading.Thread(target=in_a_thread, args=(reader.ingest, at(5, message(row("O1"), kind="DELETE"))))
        storing.start()
        inside.wait(20)
        deleting.start()
        try:
            wait_until(a_transaction_waits)
        finally:
            go_on.set()
            storing.join(20)
            deleting.join(20)

        assert (clearings.held, reader.held, reasons()) == ([], DELETED, ["deleted_at_counter"])

    def test_that_made_room_for_the_accepted_row_is_past(self, clearings: FakeClearings) -> None:
        replaced = at(5, message(row("O1"), kind="DELETE"))
        clearings.ingest(replaced)
        clearings.ingest(at(6, message(row("O1"))))

        clearings.ingest(replaced)

        assert (clearings.held, reasons()) == ([], ["deleted_unknown"])

    def test_that_made_room_for_it_in_one_batch_is_past_too(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(5, message(row("O1"), kind="DELETE")) + at(6, message(row("O1"))))

        assert (clearings.held, reasons()) == ([], ["deleted_unknown"])

    @pytest.mark.parametrize(("hours", "held"), [(1, DELETED), (-1, [])])
    def test_of_a_log_that_was_made_anew_is_not_past_though_its_offset_is_lower(
        self, clearings: FakeClearings, hours: int, held: list[tuple[str, str]]
    ) -> None:
        clearings.ingest(at(4_900, message(row("O1"))))
        raw = message(row("O1"), kind="DELETE")
        written_ms = int((time.time() + 3_600 * hours) * 1_000)

        clearings.ingest(read_message(raw, replace(origin(raw, offset=4_501), written_ms=written_ms), RULES).items)

        assert clearings.held == held

    def test_of_an_order_that_we_held_before_holds_it(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(4, message(row("O1"))))

        clearings.ingest(at(5, message(row("O1"), kind="DELETE")) + at(6, message(row("O1"))))

        assert clearings.held == DELETED


class TestARowThatWasRefused:
    def test_and_is_corrected_lets_the_order_go(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(5, message(row("O1", asset="DOGE"))))
        clearings.ingest_from_gap(from_the_counter(asset="DOGE"))

        clearings.ingest(at(6, updated(row("O1"), asset="DOGE")))
        clearings.ingest(at(5, message(row("O1", asset="DOGE"))))

        assert (clearings.held, clearings.opened) == ([], ["O1"])

    def test_and_is_corrected_in_one_batch_lets_the_order_go(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(5, message(row("O1", asset="DOGE"))) + at(6, updated(row("O1"), asset="DOGE")))

        assert (clearings.held, clearings.opened, reasons()) == ([], ["O1"], ["refused:unknown_asset"])

    def test_after_the_one_that_is_accepted_holds_it(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(6, updated(row("O1", quantity="-7"), quantity="0.05")))

        clearings.ingest(at(5, message(row("O1"))))

        assert (clearings.held, reasons()) == (DIFFERS, ["contents_differ"])

    def test_and_comes_again_once_another_is_accepted_holds_it_once(self, clearings: FakeClearings) -> None:
        refused = at(5, message(row("O1", quantity="-7")))
        clearings.ingest(refused)
        clearings.ingest_from_gap(from_the_counter())

        clearings.ingest(refused)
        clearings.ingest(refused)

        assert (clearings.held, reasons()) == (DIFFERS, ["contents_differ"])

    def test_and_is_replayed_by_a_person_holds_it(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(5, message(row("O1", quantity="-7"))))
        clearings.ingest_from_gap(from_the_counter())

        replayed = replay_quarantined(Quarantined.objects.get(), RULES, partial(clearings.ingest, source=Source.REPLAY))

        assert (replayed.verdict, clearings.held) == (Verdict.DIFFERS, DIFFERS)


class TestAnOrderThatWeFailedWith:
    def test_comes_in_by_whatever_brings_it_with_the_same_contents(self, clearings: FakeClearings) -> None:
        clearings.while_opening = fail
        clearings.others_succeeded = lambda: True
        clearings.ingest(at(6, message(row("O1"))))
        assert reasons() == ["internal_error"]
        clearings.while_opening = lambda _: None

        clearings.ingest(at(5, message(row("O1"))))

        assert (clearings.opened, clearings.held) == (["O1"], [])


class TestAHoldThatWasSet:
    """Whether it still stands or a person has released it: for the same contents it isn't set
    again.
    """

    def test_is_not_set_again_by_a_change_of_what_we_do_not_map(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(1, message(row("O1"))))
        clearings.ingest(at(2, updated(row("O1", quantity="7"), quantity="0.05")))

        clearings.ingest(at(3, updated(row("O1", quantity="7.0", status="CLEARED"), status="NEW")))

        assert (clearings.held, reasons()) == (DIFFERS, ["contents_differ"] * 2)

    def test_is_set_again_by_other_contents(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(1, message(row("O1"))))
        clearings.ingest(at(2, updated(row("O1", quantity="7"), quantity="0.05")))

        clearings.ingest(at(3, updated(row("O1", quantity="8"), quantity="7")))

        assert clearings.held == DIFFERS * 2

    @pytest.mark.parametrize("change", [{"quantity": "-7"}, {"kind": "FEE"}])
    def test_by_a_row_that_is_no_order_is_not_set_again_by_its_status(self, clearings: FakeClearings, change: dict[str, str]) -> None:
        clearings.ingest(at(1, message(row("O1"))))
        clearings.ingest(at(2, updated(row("O1", **change), quantity="0.05")))

        clearings.ingest(at(3, updated(row("O1", status="CLEARED", **change), status="NEW")))
        clearings.ingest(at(4, updated(row("O1", status="CLEARED", **change, instrument="BTC"), instrument="ETH")))

        assert (clearings.held, len(reasons())) == (DIFFERS * 2, 3)

    def test_for_a_deletion_is_set_by_each(self, clearings: FakeClearings) -> None:
        clearings.ingest(at(1, message(row("O1"))))
        clearings.ingest(at(2, message(row("O1"), kind="DELETE")))

        clearings.ingest(at(3, message(row("O1"))) + at(4, message(row("O1"), kind="DELETE")))

        assert clearings.held == DELETED * 2


def test_who_keeps_others_from_accepting_does_not_do_it_for_long() -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        lock_out_inserts()

        cursor.execute("SELECT current_setting('lock_timeout'), current_setting('idle_in_transaction_session_timeout')")
        assert cursor.fetchone() == ("2s", "2s")


def broken_hold(order_id: str, code: str) -> None:
    raise OperationalError(f"no connection to hold {order_id} for {code}")


def fail(_: Sequence[AcceptedOrder]) -> None:
    raise ZeroDivisionError("no plan for this order")


def in_a_thread(take: object, items: Sequence[Item]) -> None:
    assert callable(take)
    try:
        take(items)
    finally:
        connection.close()


def a_transaction_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        return bool(cursor.fetchone()[0])


class TestAFloodOfMessagesAboutOneOrder:
    def test_holds_it_by_a_few_of_them(self, clearings: FakeClearings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quarantine, "CAUSES_MAX", 3)
        for offset in range(5, 15):
            clearings.ingest(at(offset, message(row("O1"), kind="DELETE")))
        clearings.ingest(at(20, message(row("O1", asset="DOGE"))))

        clearings.ingest_from_gap(from_the_counter())

        assert (clearings.held, clearings.opened) == (DELETED, ["O1"])
        assert sorted(reasons()) == ["deleted_at_counter"] * 3 + ["deleted_unknown"] * 7 + ["refused:unknown_asset"]

    def test_hides_no_deletion_behind_other_contents(self, clearings: FakeClearings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(quarantine, "CAUSES_MAX", 1)
        for offset in range(5, 9):
            clearings.ingest(at(offset, message(row("O1", asset="DOGE"))))
        clearings.ingest(at(9, message(row("O1"), kind="DELETE")))

        clearings.ingest(at(1, message(row("O1"))))

        assert clearings.held == DELETED

    def test_that_makes_a_batch_too_slow_keeps_no_other_order_out(self, clearings: FakeClearings) -> None:
        """A statement that is ended for its time says nothing of the row: the batch is halved, as
        for a row that the database refuses.
        """
        sizes = []

        def slow(accepted: Sequence[AcceptedOrder]) -> None:
            sizes.append(len(accepted))
            if len(accepted) > 2:
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL statement_timeout = 50")
                    cursor.execute("SELECT pg_sleep(5)")

        clearings.while_opening = slow

        result = clearings.ingest(inserts([f"O{number}" for number in range(8)]))

        assert (result.accepted, sizes) == (8, [8, 4, 2, 2, 4, 2, 2])
