"""Ingest of bad rows, with internal errors, and with a database that fails or is slow."""

from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from django.db import OperationalError, connection
from pytest_django import Settings
from structlog.testing import capture_logs

from base import fence
from orders.backfill.gap_pass import interface_origin
from orders.intake.classify import read_row
from orders.intake.faults import IntakeFault
from orders.intake.ingest import AcceptedOrder
from orders.models import Quarantined
from tests.orders.fakes import FakeClearings, changed, order_ids, reasons
from tests.orders.messages import RULES, inserts, interface_row, message, read, row

pytestmark = pytest.mark.django_db(transaction=True)


class TestBadRows:
    def test_are_quarantined_beside_the_good_ones_of_their_batch(self, clearings: FakeClearings) -> None:
        result = clearings.ingest(read(message(row("O1")), message(row("O2", asset="DOGE"), row("O3", user_id="3")), b"garbage"))

        assert order_ids() == ["O1", "O3"]
        assert sorted(reasons()) == [("", "unreadable"), ("O2", "refused:unknown_asset")]
        assert (result.accepted, result.refused, result.quarantined, len(result.bad)) == (2, 1, 1, 2)

    def test_found_again_add_nothing(self, clearings: FakeClearings) -> None:
        batch = read(b"garbage", message(row(None, asset="DOGE")))  # type: ignore[arg-type]
        clearings.ingest(batch)

        result = clearings.ingest(batch)

        assert Quarantined.objects.count() == 2
        assert (result.bad, len(result.bad_before)) == (set(), 2)

    def test_that_name_neither_their_id_nor_their_order_are_two(self, clearings: FakeClearings) -> None:
        odd = [interface_row("absent", id=number, quantity="x") for number in ("-5", "-6")]
        items = [read_row(columns, interface_origin("gap:", 0, columns), RULES) for columns in odd]

        results = [clearings.ingest_from_gap(items).refused for _ in range(2)]

        assert (results, Quarantined.objects.count()) == ([2, 0], 2)

    @pytest.mark.parametrize(
        "fields",
        [
            {"instrument": "BTC\x00"},
            {"instrument": "BTC\ud800"},
            {"quantity": Decimal(10) ** 40},
            {"quantity": Decimal(-1)},
            {"sequence": 2**70},
            {"direction": "HOLD!"},
            {"contract_id": "C" * 65},
        ],
    )
    def test_that_only_the_database_refuses_are_found_and_quarantined_alone(self, clearings: FakeClearings, fields: dict[str, object]) -> None:
        batch = inserts(f"O{number:02d}" for number in range(20))
        batch[13] = changed(batch[13], **fields)

        result = clearings.ingest(batch)

        assert (result.accepted, result.quarantined) == (19, 1)
        assert "O13" not in order_ids()
        assert reasons() == [("O13", "database_refused")]
        assert sorted(clearings.published) == order_ids()


def fails_with(*order_ids: str) -> Callable[[Sequence[AcceptedOrder]], None]:
    """An internal error with these orders; without names with all."""

    def choke(accepted: Sequence[AcceptedOrder]) -> None:
        if not order_ids or {stored.order.order_id for stored in accepted} & set(order_ids):
            raise ZeroDivisionError("no plan for this order")

    return choke


def fail_inside(sqlstate: str) -> None:
    """PostgreSQL raises an error with this SQLSTATE."""
    with connection.cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'it is {sqlstate}' USING ERRCODE = '{sqlstate}'; END $$")


class TestInternalErrors:
    def test_with_one_order_quarantine_it_alone_with_an_alarm(self, clearings: FakeClearings) -> None:
        clearings.while_opening = fails_with("O3")

        with capture_logs() as lines:
            result = clearings.ingest(inserts(f"O{number}" for number in range(8)))

        assert (result.accepted, result.quarantined, len(result.bad)) == (7, 1, 1)
        assert reasons() == [("O3", "internal_error")]
        assert [line["alarm"] for line in lines if "alarm" in line] == ["internal_error"]

    def test_with_every_order_quarantine_none(self, clearings: FakeClearings) -> None:
        clearings.while_opening = fails_with()

        with pytest.raises(IntakeFault, match="no plan for this order") as fault:
            clearings.ingest(inserts(f"O{number}" for number in range(8)))

        assert (order_ids(), reasons(), clearings.published) == ([], [], [])
        assert len(fault.value.order_ids) == 8

    def test_with_a_single_order_quarantine_it_if_others_were_accepted_meanwhile(self, clearings: FakeClearings) -> None:
        clearings.while_opening = fails_with("O1")
        clearings.others_succeeded = lambda: True

        result = clearings.ingest(inserts(["O1"]))

        assert (result.quarantined, reasons()) == (1, [("O1", "internal_error")])

    def test_leave_what_else_the_batch_brings_as_it_is(self, clearings: FakeClearings) -> None:
        clearings.while_opening = fails_with()

        with pytest.raises(IntakeFault):
            clearings.ingest([*inserts(["O1"]), *read(b"garbage")])

        assert reasons() == [("", "unreadable")]

    def test_with_an_order_that_was_quarantined_before_delay_no_other(self, clearings: FakeClearings) -> None:
        clearings.while_opening = fails_with("O1")
        clearings.ingest(inserts(["O1", "O2"]))

        result = clearings.ingest(inserts(["O1"]))  # as the gap pass finds it: with nothing new beside it

        assert (result.accepted, result.quarantined) == (0, 1)
        assert order_ids() == ["O2"]

    def test_are_mended_by_the_same_messages_once_more(self, clearings: FakeClearings) -> None:
        batch = inserts(["O1", "O2"])
        clearings.while_opening = fails_with()
        with pytest.raises(IntakeFault):
            clearings.ingest(batch)

        clearings.while_opening = lambda _: None
        result = clearings.ingest(batch)

        assert (result.accepted, order_ids()) == (2, ["O1", "O2"])

    def test_include_what_the_database_itself_fails_with_for_one_of_them(self, clearings: FakeClearings) -> None:
        clearings.while_opening = lambda accepted: fail_inside("XX001") if "O3" in {stored.order.order_id for stored in accepted} else None

        result = clearings.ingest(inserts(f"O{number}" for number in range(8)))

        assert (result.accepted, reasons()) == (7, [("O3", "internal_error")])

    def test_include_what_the_database_fails_with_for_all(self, clearings: FakeClearings) -> None:
        clearings.while_opening = lambda _: fail_inside("XX001")

        with pytest.raises(IntakeFault, match="XX001"):
            clearings.ingest(inserts(["O1", "O2"]))

        assert (order_ids(), reasons()) == ([], [])

    def test_are_not_what_a_server_that_was_demoted_says(self, clearings: FakeClearings) -> None:
        clearings.while_opening = lambda _: fail_inside("25006")

        with pytest.raises(OperationalError, match="25006"):
            clearings.ingest(inserts(["O1", "O2"]))

    def test_are_not_what_an_unavailable_database_raises(self, clearings: FakeClearings) -> None:
        def away(_: Sequence[AcceptedOrder]) -> None:
            raise OperationalError("terminating connection")

        clearings.while_opening = away

        with pytest.raises(OperationalError):
            clearings.ingest(inserts(["O1"]))


class TestUnderAFence:
    @pytest.fixture
    def fenced(self, clearings: FakeClearings) -> FakeClearings:
        clearings.fence = fence.fence_of(fence.current().term)
        return clearings

    def test_come_in_transactions_that_are_smaller_still(self, fenced: FakeClearings) -> None:
        sizes: list[int] = []
        fenced.while_opening = lambda accepted: sizes.append(len(accepted))

        fenced.ingest_from_gap(inserts(f"O{number:03d}" for number in range(250)))

        assert sizes == [100, 100, 50]

    @pytest.mark.parametrize("statements", [1, 10])
    def test_come_in_fewer_at_a_time_where_the_database_is_slow(self, fenced: FakeClearings, settings: Settings, statements: int) -> None:
        settings.FENCE_MS_MAX = 500

        def crawl(accepted: Sequence[AcceptedOrder]) -> None:
            with connection.cursor() as cursor:
                for _ in range(statements):  # no single one takes too long: the transaction does
                    cursor.execute("SELECT pg_sleep(%s)", [0.04 * len(accepted) / statements])

        fenced.while_opening = crawl

        result = fenced.ingest_from_gap(inserts(f"O{number:02d}" for number in range(24)))

        assert (result.accepted, len(fenced.published)) == (24, 24)

    def test_stay_out_where_not_even_one_is_in_time(self, fenced: FakeClearings, settings: Settings) -> None:
        settings.FENCE_MS_MAX = 500

        def stand_still(_: Sequence[AcceptedOrder]) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(2)")

        fenced.while_opening = stand_still

        with pytest.raises(OperationalError):
            fenced.ingest_from_gap(inserts(["O1", "O2"]))

        assert reasons() == []
