"""A message with many rows costs what its rows need, not rows times its bytes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from structlog.testing import capture_logs

from base.clock import ServiceNow
from clearing.models import Clearing
from clearing.opening import archived
from clearing.status import State
from orders.backfill.replay import replay_quarantined
from orders.backfill.verdicts import Verdict
from orders.decoding.canal import as_canal_flat
from orders.decoding.changes import RowChange, RowValues
from orders.decoding.decode import decode
from orders.intake.bad_news import LOGGED_ROWS_MAX
from orders.intake.classify import TOO_MANY_ROWS, Bad, read_message
from orders.models import Quarantined, QuarantinedMessage, SyncOrder
from tests.orders.fakes import FakeClearings, order_ids
from tests.orders.messages import RULES, inserts, message, origin, read, row
from tests.support.orders import World

pytestmark = pytest.mark.django_db(transaction=True)
ROWS = 400
IDS = [f"O{number:04}" for number in range(ROWS)]


def many(*, kind: str = "DELETE", **changes: Any) -> bytes:
    return message(*(row(order_id, user_id=order_id, contract_id=f"C-{order_id}", **changes) for order_id in IDS), kind=kind)


def quarantined_bytes() -> int:
    stored = [*Quarantined.objects.values_list("message", flat=True), *QuarantinedMessage.objects.values_list("message", flat=True)]
    return sum(len(message or b"") for message in stored)


class TestAMessageOfManyRows:
    @pytest.mark.parametrize("kind", ["DELETE", "INSERT"])
    def test_is_stored_once_in_a_few_statements(self, clearings: FakeClearings, kind: str) -> None:
        """As deletions of orders that we don't know, and as orders that aren't valid."""
        raw = many(kind=kind, **({} if kind == "DELETE" else {"asset": "DOGE"}))

        with CaptureQueriesContext(connection) as captured:
            result = clearings.ingest(read(raw))

        assert (Quarantined.objects.count(), QuarantinedMessage.objects.count()) == (ROWS, 1)
        assert result.quarantined + result.refused == ROWS
        assert quarantined_bytes() < 4 * len(raw)
        assert sum(len(query["sql"]) for query in captured) < 8 * len(raw)
        assert len(captured) < 30

    def test_that_comes_again_adds_and_costs_nothing(self, clearings: FakeClearings) -> None:
        raw = many()
        item = origin(raw)
        clearings.ingest(read_message(raw, item, RULES).items)

        with CaptureQueriesContext(connection) as captured:
            result = clearings.ingest(read_message(raw, item, RULES).items)

        assert (result.known, result.quarantined, Quarantined.objects.count()) == (ROWS, 0, ROWS)
        assert sum(len(query["sql"]) for query in captured) < 8 * len(raw)

    def test_of_held_orders_that_comes_again_opens_no_transaction_for_each(self, clearings: FakeClearings) -> None:
        clearings.ingest(inserts(IDS))
        raw = many()
        item = origin(raw)
        first = clearings.ingest(read_message(raw, item, RULES).items)

        with CaptureQueriesContext(connection) as captured:
            again = clearings.ingest(read_message(raw, item, RULES).items)

        assert (len(clearings.held), first.holding[item.place]) == (ROWS, ROWS)
        assert (again.known, again.holding, len(captured) < 30) == (ROWS, {}, True)

    def test_is_logged_for_its_first_rows(self, clearings: FakeClearings) -> None:
        with capture_logs() as lines:
            clearings.ingest(read(many()))

        assert sum(line["event"] == "quarantined" for line in lines) == LOGGED_ROWS_MAX
        assert [line["rows"] for line in lines if line["event"] == "more rows of this message quarantined"] == [ROWS - LOGGED_ROWS_MAX]

    def test_keeps_rows_that_name_no_order_whole(self, clearings: FakeClearings) -> None:
        raw = message(row("", user_id="1"), row("O 1", user_id="2"))

        clearings.ingest(read(raw))

        assert [bytes(found.message or b"") for found in Quarantined.objects.all()] == [raw]

    @pytest.mark.parametrize("whole", [True, False], ids=["this release", "the release before"])
    def test_is_replayed_row_by_row(self, clearings: FakeClearings, whole: bool) -> None:
        """The release before knows only the row's own bytes."""
        clearings.ingest(read(many(kind="INSERT", asset="ETH"), rules=replace(RULES, scales={"USDT": 6, "BTC": 8})))
        if not whole:
            QuarantinedMessage.objects.all().delete()

        verdicts = [replay_quarantined(found, RULES, clearings.ingest).verdict for found in Quarantined.objects.order_by("pk")]

        assert (verdicts, order_ids()) == ([Verdict.NEW] * ROWS, IDS)
        assert set(SyncOrder.objects.values_list("asset", flat=True)) == {"ETH"}

    def test_with_two_changes_of_one_order_is_replayed_with_both(self, clearings: FakeClearings) -> None:
        raw = message(row("O1", asset="DOGE"), row("O1", quantity="2", asset="DOGE"), row("O2", asset="DOGE"))
        clearings.ingest(read(raw))
        rules = replace(RULES, scales={**RULES.scales, "DOGE": 8})

        found = replay_quarantined(Quarantined.objects.get(order_id="O1"), rules, clearings.ingest)

        assert (found.verdict, clearings.held) == (Verdict.DIFFERS, [("O1", "contents_differ")])

    def test_with_more_rows_than_are_read_at_once_is_bad_as_a_whole(self) -> None:
        raw = many()

        (item,) = read_message(raw, origin(raw), RULES, ROWS - 1).items

        assert isinstance(item, Bad)
        assert (item.reason, item.order_id, item.origin.own_row) == (TOO_MANY_ROWS, "", None)
        assert len(read_message(raw, origin(raw), RULES, ROWS).items) == ROWS


def printed(columns: RowValues | None) -> RowValues | None:
    """Bytes as Canal prints them."""
    return columns and {name: value.decode("latin-1") if isinstance(value, bytes) else value for name, value in columns.items()}


@pytest.mark.parametrize(
    "change",
    [
        RowChange("canal_flat", "counter", "sync_order", "insert", None, {"order_id": "O1", "note": None, "blob": b"\xff\x00"}, ("id",), 1),
        RowChange("maxwell", "counter", "sync_order", "update", {"order_id": "O1", "a": "1"}, {"order_id": "O1", "a": "2"}, (), None),
        RowChange("debezium", "c", "t", "update", None, {"order_id": "ü\x00\u2028"}, ("id", "x"), 1_767_323_045_000),
        RowChange("canal_protobuf", "c", "t", "delete", {"order_id": "O1"}, None, (), 1),
    ],
    ids=lambda change: f"{change.source_format} {change.operation}",
)
def test_a_row_alone_reads_as_the_same_change(change: RowChange) -> None:
    (found,) = decode(as_canal_flat(change))

    assert (found.operation, found.database, found.table, found.primary_key) == (change.operation, change.database, change.table, change.primary_key)
    assert (found.before, found.after) == (printed(change.before), printed(change.after))
    assert found.source_time == change.source_time


class TestAPurgeAtTheCounter:
    def test_of_finished_orders_is_counted_and_nothing_else(self, clearings: FakeClearings) -> None:
        clearings.ingest(inserts(IDS))
        clearings.archived = set(IDS[1:])

        with CaptureQueriesContext(connection) as captured:
            result = clearings.ingest(read(many()))

        assert (result.archived, result.quarantined, clearings.held) == (ROWS - 1, 1, [(IDS[0], "deleted_at_counter")])
        assert (Quarantined.objects.count(), len(captured) < 30) == (1, True)

    def test_is_no_excuse_for_other_contents(self, clearings: FakeClearings) -> None:
        clearings.ingest(inserts(["O1"]))
        clearings.archived = {"O1"}

        result = clearings.ingest(read(message(row("O1", user_id="O1", contract_id="C-O1", quantity="2"), kind="UPDATE", old=[{"quantity": "1"}])))

        assert (result.archived, clearings.held) == (0, [("O1", "contents_differ")])

    @pytest.mark.parametrize(("hours", "state", "counted"), [(1, State.CLEARED, True), (-1, State.CLEARED, False), (1, State.PARKED, False)])
    def test_concerns_orders_that_are_finished_for_longer_than_reconcile_looks_back(self, hours: int, state: State, counted: bool) -> None:
        clearing = World().accept()
        Clearing.objects.filter(pk=clearing.pk).update(state=State.QUEUED)
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")  # no trigger: the state as it would be after its steps
            at = ServiceNow() - timedelta(hours=settings.RECONCILE_HOURS + hours)
            Clearing.objects.filter(pk=clearing.pk).update(state=state, error_code="timeout", changed_at=at)
            cursor.execute("SET session_replication_role = origin")

        assert archived([clearing.order.order_id]) == ({clearing.order.order_id} if counted else set())
