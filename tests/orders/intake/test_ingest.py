import threading
from collections.abc import Sequence
from decimal import Decimal

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from orders.intake.classify import Arrival, Item, read_row
from orders.intake.ingest import AcceptedOrder
from orders.intake.mapping import NewOrder
from orders.models import Quarantined, SyncOrder, Watermark
from tests.orders.fakes import FakeClearings, changed, order_ids, reasons
from tests.orders.messages import CREATED_MS, RULES, inserts, interface_row, message, origin, read, row, updated
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


class TestNewOrders:
    def test_are_stored_opened_and_published(self, clearings: FakeClearings) -> None:
        result = clearings.ingest(inserts(["O2", "O1"]))

        assert (result.accepted, clearings.opened, clearings.published) == (2, ["O2", "O1"], ["O2", "O1"])
        stored = SyncOrder.objects.get(order_id="O1")
        assert (stored.quantity, stored.created_ms, stored.source, stored.topic) == (Decimal("0.05"), CREATED_MS, "kafka", "counter.sync_order")
        assert stored.offset is not None
        assert len(stored.canonical_hash) == 64

    def test_come_in_transactions_of_bounded_size(self, clearings: FakeClearings, settings: Settings) -> None:
        settings.INTAKE_BATCH_ROWS_MAX = 10
        sizes: list[int] = []
        clearings.while_opening = lambda accepted: sizes.append(len(accepted))

        clearings.ingest(inserts(f"O{number:02d}" for number in range(25)))

        assert sizes == [10, 10, 5]
        assert len(clearings.published) == 25

    def test_are_not_stored_without_their_clearings(self, clearings: FakeClearings) -> None:
        def break_down(_: Sequence[AcceptedOrder]) -> None:
            raise OperationalError("the server closed the connection")

        clearings.while_opening = break_down

        with pytest.raises(OperationalError):
            clearings.ingest(inserts(["O1"]))

        assert order_ids() == []

    def test_are_not_stored_behind_a_closed_fence(self, clearings: FakeClearings) -> None:
        def closed() -> None:
            raise PermissionError("not the leader")

        clearings.fence = closed

        with pytest.raises(PermissionError):
            clearings.ingest(inserts(["O1"]))

        assert order_ids() == []

    def test_that_cannot_be_published_are_left_to_the_sweep(self, clearings: FakeClearings) -> None:
        clearings.while_publishing = lambda: False

        assert clearings.ingest(inserts(["O1", "O2"])).unpublished == 2
        assert order_ids() == ["O1", "O2"]

    def test_are_kept_when_publishing_breaks(self, clearings: FakeClearings) -> None:
        def broken() -> bool:
            raise RuntimeError("a bug in the publisher")

        clearings.while_publishing = broken

        assert clearings.ingest(inserts(["O1"])).unpublished == 1
        assert order_ids() == ["O1"]

    def test_move_their_shards_newest_time_on_and_never_back(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1", user_id="1", created_at="2026-01-02 03:04:07"))))
        clearings.ingest(read(message(row("O2", user_id="2", created_at="2026-01-02 03:04:06"), row("O3", user_id="3", shard="5"))))

        assert dict(Watermark.objects.values_list("shard", "newest_ms")) == {2: 1_767_323_047_000, 5: CREATED_MS}


class TestKnownOrders:
    def test_the_same_message_again_changes_nothing(self, clearings: FakeClearings) -> None:
        batch = inserts(["O1", "O2"])
        clearings.ingest(batch)
        opened = len(clearings.opened)

        result = clearings.ingest(batch)

        assert (result.accepted, result.known, len(clearings.opened), clearings.held, reasons()) == (0, 2, opened, [], [])

    def test_the_same_order_twice_in_a_batch_is_one(self, clearings: FakeClearings) -> None:
        result = clearings.ingest(read(message(row("O1")), message(row("O1"))))

        assert (result.accepted, result.known, clearings.opened) == (1, 1, ["O1"])

    def test_another_spelling_is_the_same_order(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1", quantity="1.500000000000000000"))))

        result = clearings.ingest(read(message(row("O1", quantity="1.5"))))

        assert (result.known, reasons()) == (1, [])

    def test_a_wall_of_them_costs_a_bounded_number_of_queries(self, clearings: FakeClearings) -> None:
        batch = inserts(f"O{number:03d}" for number in range(150))
        clearings.ingest(batch)

        with CaptureQueriesContext(
            connection,
        ) as queries:
            clearings.ingest(batch)

        assert len(queries) <= 4  # begin, insert of nothing, hashes, commit
        newest = SyncOrder.objects.order_by("-id").first()
        clearings.ingest(inserts(["P1"]))
        assert newest is not None
        assert SyncOrder.objects.get(order_id="P1").pk == newest.pk + 1

    def test_two_consumers_at_once_accept_each_once(self, clearings: FakeClearings) -> None:
        batch = inserts(f"O{number:02d}" for number in range(40))
        others = FakeClearings()
        inside, go_on = threading.Event(), threading.Event()

        def hesitate(_: Sequence[AcceptedOrder]) -> None:
            inside.set()
            go_on.wait(5)

        clearings.while_opening = hesitate
        first = threading.Thread(target=in_a_thread, args=(clearings, batch))
        second = threading.Thread(target=in_a_thread, args=(others, batch[::-1]))
        first.start()
        inside.wait(5)
        second.start()
        wait_until(a_transaction_waits)
        go_on.set()
        first.join(10)
        second.join(10)

        assert len(clearings.opened) == 40
        assert others.opened == []
        assert SyncOrder.objects.count() == 40


def in_a_thread(clearings: FakeClearings, batch: Sequence[Item]) -> None:
    try:
        clearings.ingest(batch)
    finally:
        connection.close()


def a_transaction_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
        return bool(cursor.fetchone()[0])


class TestOtherContents:
    def test_never_overwrite_but_hold(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"))))

        result = clearings.ingest(read(message(row("O1", quantity="7"))))

        assert clearings.held == [("O1", "contents_differ")]
        assert reasons() == [("O1", "contents_differ")]
        assert SyncOrder.objects.get().quantity == Decimal("0.05")
        assert (result.quarantined, result.bad) == (1, set())

    def test_are_kept_whole(self, clearings: FakeClearings) -> None:
        raw = message(row("O1", quantity="7"))
        clearings.ingest(read(message(row("O1")), raw))

        kept = Quarantined.objects.get()

        assert bytes(kept.message or b"") == raw
        assert (kept.topic, kept.source) == ("counter.sync_order", "kafka")
        assert len(kept.message_hash) == 64

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (message(row("O1", quantity="7")), "contents_differ"),
            (message(row("O1", quantity="-7")), "contents_differ"),
            (message(row("O1"), kind="DELETE"), "deleted_at_counter"),
        ],
    )
    def test_in_the_same_batch_hold_before_the_order_is_published(self, clearings: FakeClearings, change: bytes, code: str) -> None:
        held_at_publishing: list[tuple[str, str]] = []

        def publishing() -> bool:
            held_at_publishing.extend(clearings.held)
            return True

        clearings.while_publishing = publishing

        clearings.ingest(read(message(row("O1")), change))

        assert (held_at_publishing, clearings.published) == ([("O1", code)], ["O1"])

    def test_that_can_not_be_held_keep_the_batch_from_being_published(self, clearings: FakeClearings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(clearings, "hold", broken_hold)

        with pytest.raises(OperationalError):
            clearings.ingest(read(message(row("O1")), message(row("O1", quantity="-7"))))

        assert (order_ids(), clearings.published) == (["O1"], [])  # it is queued: the sweep sends it, at the earliest when the hold is tried again

    def test_found_again_hold_no_more(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"))))
        batch = read(message(row("O1", quantity="7")))
        clearings.ingest(batch)

        result = clearings.ingest(batch)

        assert (len(clearings.held), len(reasons()), result.known) == (1, 1, 1)

    def test_are_not_quarantined_without_the_hold(self, clearings: FakeClearings, monkeypatch: pytest.MonkeyPatch) -> None:
        clearings.ingest(read(message(row("O1"))))
        monkeypatch.setattr(clearings, "hold", broken_hold)

        with pytest.raises(OperationalError):
            clearings.ingest(read(message(row("O1", quantity="7"))))

        assert reasons() == []

    def test_in_a_row_that_is_no_valid_order_hold_too(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"))))

        clearings.ingest(read(message(row("O1", quantity="-7"))))

        assert clearings.held == [("O1", "contents_differ")]


def broken_hold(order_id: str, code: str) -> None:
    raise OperationalError(f"no connection to hold {order_id} for {code}")


class TestUpdatesAndDeletes:
    def test_an_update_of_what_we_dont_map_is_known(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"))))

        result = clearings.ingest(read(updated(row("O1", status="CLEARED"), status="NEW")))

        assert (result.known, clearings.held) == (1, [])

    def test_an_update_of_contents_holds(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"))))

        clearings.ingest(read(updated(row("O1", quoted_usdt="1"), quoted_usdt="3050.12")))

        assert clearings.held == [("O1", "contents_differ")]

    def test_an_update_to_another_kind_holds(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"))))

        clearings.ingest(read(updated(row("O1", kind="FEE"), kind="EXCHANGE")))

        assert clearings.held == [("O1", "contents_differ")]

    def test_an_update_to_another_order_id_is_a_new_order_and_a_deleted_one(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"))))

        clearings.ingest(read(updated(row("O2"), order_id="O1")))

        assert order_ids() == ["O1", "O2"]
        assert clearings.held == [("O1", "deleted_at_counter")]

    def test_an_update_of_an_order_whose_insert_was_lost_brings_it(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(updated(row("O1", status="X"), status="NEW")))

        assert order_ids() == ["O1"]

    def test_a_deleted_order_is_held(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1")), message(row("O1"), kind="DELETE")))

        assert clearings.held == [("O1", "deleted_at_counter")]
        assert reasons() == [("O1", "deleted_at_counter")]

    def test_an_order_that_was_deleted_before_we_saw_it_is_kept_for_people(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"), kind="DELETE")))

        assert (clearings.held, reasons()) == ([], [("O1", "deleted_unknown")])

    def test_changes_of_other_rows_and_tables_are_counted(self, clearings: FakeClearings) -> None:
        result = clearings.ingest(
            read(
                message(row("F1", kind="FEE")),
                message(row("F1", kind="FEE"), kind="DELETE"),
                updated(row("F1", kind="FEE", status="X"), status="NEW"),
                message(row("O1"), table="account"),
                message(kind="ALTER", isDdl=True),
            )
        )

        assert (result.filtered, result.accepted, reasons()) == (5, 0, [])


class TestInterfaceRows:
    def test_agree_with_the_binlogs(self, clearings: FakeClearings) -> None:
        clearings.ingest(read(message(row("O1"))))

        result = clearings.ingest_from_gap([read_row(interface_row("O1"), origin(b"{}"), RULES)])

        assert (result.known, clearings.held) == (1, [])


def test_a_new_order_is_a_plain_value() -> None:
    item = inserts(["O1"])[0]

    assert isinstance(item, Arrival)
    assert isinstance(item.order, NewOrder)
    with pytest.raises(AttributeError):
        item.order.order_id = "O2"  # type: ignore[misc]


class TestRowsOfTheInterface:
    def test_known_ones_are_looked_up_and_nothing_is_written(self, clearings: FakeClearings) -> None:
        orders = inserts(f"O{number:03d}" for number in range(30))
        clearings.ingest(orders)

        with CaptureQueriesContext(connection) as queries:
            result = clearings.ingest_from_gap(orders)

        assert (result.known, result.accepted) == (30, 0)
        assert [query["sql"].split()[0] for query in queries.captured_queries] == ["SELECT"]

    def test_among_known_ones_a_new_and_a_changed_one_are_found(self, clearings: FakeClearings) -> None:
        known, other = inserts(["O1", "O2"])
        clearings.ingest([known, other])
        (new,) = inserts(["O3"])

        result = clearings.ingest_from_gap([known, new, changed(other, quantity=Decimal(2)), new])

        assert (result.accepted, result.known, result.quarantined) == (1, 2, 1)
        assert (clearings.opened[2:], clearings.held) == (["O3"], [("O2", "contents_differ")])
