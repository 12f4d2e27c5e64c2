"""Lists and pages: found by index, complete, read-only, and as quick with ten thousand orders as
with five.
"""

import time
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from clearing.admin.clearings import ERROR_CODES_MAX, ERROR_CODES_SQL
from clearing.models import Clearing
from orders.models import Quarantined, SyncOrder, Watermark
from tests.support.bulk import create_orders
from tests.support.states import rewritable

CLEARINGS = "/admin/clearing/clearing/"
ORDERS = "/admin/orders/syncorder/"
QUARANTINE = "/admin/orders/quarantined/"


def rows(client: Client, url: str) -> list[str]:
    """The order ids on a list's page."""
    answer = client.get(url)
    assert answer.status_code == 200, answer.headers
    return [str(row if isinstance(row, SyncOrder) else row.order) for row in answer.context["cl"].result_list]


def queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200
    return len(captured)


class TestSearch:
    @pytest.fixture(autouse=True)
    def orders(self, db: None) -> None:
        create_orders(300, users=30)

    @pytest.mark.parametrize("url", [CLEARINGS, ORDERS])
    @pytest.mark.parametrize(
        ("term", "found"),
        [("bulk-00000123", ["bulk-00000123"]), ("bulk-00000123:3.2:r1", ["bulk-00000123"]), ("  bulk-00000123 ", ["bulk-00000123"]), ("nobody", [])],
    )
    def test_an_order_by_its_id_or_by_a_key(self, viewer: Client, url: str, term: str, found: list[str]) -> None:
        assert rows(viewer, f"{url}?q={term}") == found

    @pytest.mark.parametrize("url", [CLEARINGS, ORDERS])
    @pytest.mark.parametrize("term", ["A:b:1", "A:b", "A:b:1:3.2:r1", "A:b:1:4"])
    def test_an_order_whose_id_has_colons(self, viewer: Client, url: str, term: str) -> None:
        """From a release that took such ids."""
        with rewritable():
            SyncOrder.objects.filter(order_id="bulk-00000123").update(order_id="A:b:1")

        assert rows(viewer, f"{url}?q={term}") == ["A:b:1"]

    @pytest.mark.parametrize("url", [CLEARINGS, ORDERS])
    def test_orders_by_the_beginning_of_an_id(self, viewer: Client, url: str) -> None:
        assert rows(viewer, f"{url}?q=bulk-0000012") == [f"bulk-{number:08d}" for number in range(129, 119, -1)]

    @pytest.mark.parametrize("url", [CLEARINGS, ORDERS])
    def test_all_of_a_user_s(self, viewer: Client, url: str) -> None:
        found = rows(viewer, f"{url}?q=1007")

        assert len(found) == 10
        assert found[0] == "bulk-00000277"

    @pytest.mark.parametrize("term", ["%25", "bulk_0", "'"])
    def test_odd_terms_find_nothing_and_break_nothing(self, viewer: Client, term: str) -> None:
        assert rows(viewer, f"{CLEARINGS}?q={term}") == []

    def test_no_search_reads_the_whole_table(self, viewer: Client) -> None:
        with CaptureQueriesContext(connection) as captured:
            viewer.get(f"{CLEARINGS}?q=1007")

        assert not [query["sql"] for query in captured if "LIKE '%" in query["sql"] or "UPPER(" in query["sql"]]


class TestFilters:
    @pytest.fixture(autouse=True)
    def orders(self, db: None) -> None:
        create_orders(400, users=40)

    def states(self, client: Client, query: str) -> set[str]:
        return {row.state for row in client.get(f"{CLEARINGS}?{query}").context["cl"].result_list}

    def test_by_state(self, viewer: Client) -> None:
        assert self.states(viewer, "state=parked") == {"parked"}

    def test_unfinished_ones(self, viewer: Client) -> None:
        assert "cleared" not in self.states(viewer, "state=unfinished")
        assert {"parked", "running"} <= self.states(viewer, "state=unfinished")

    def test_by_error(self, viewer: Client) -> None:
        found = viewer.get(f"{CLEARINGS}?error=timeout").context["cl"].result_list

        assert {row.error_code for row in found} == {"timeout"}

    def test_the_errors_in_use_are_found_by_skipping_through_an_index(self, viewer: Client) -> None:
        """An outage leaves a million unfinished orders: a look at the list must not sort them."""
        expected = sorted(set(Clearing.objects.exclude(state="cleared").exclude(error_code="").values_list("error_code", flat=True)))

        with connection.cursor() as cursor:
            cursor.execute(ERROR_CODES_SQL, [ERROR_CODES_MAX])
            found = [code for (code,) in cursor.fetchall()]
            cursor.execute("ANALYZE clearing_clearing")
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off")
            cursor.execute(f"EXPLAIN (ANALYZE, VERBOSE) {ERROR_CODES_SQL}", [ERROR_CODES_MAX])
            plan = "\n".join(line for (line,) in cursor.fetchall())

        assert (found, len(expected) > 1) == (expected, True)
        assert plan.count("clearing_error_code") == 2, plan

    def test_by_direction_asset_and_source(self, viewer: Client) -> None:
        found = viewer.get(f"{CLEARINGS}?direction=OPEN&asset=ETH&source=kafka").context["cl"].result_list

        assert {(row.order.direction, row.order.asset, row.order.source) for row in found} == {("OPEN", "ETH", "kafka")}

    def test_by_time(self, viewer: Client) -> None:
        with rewritable():
            SyncOrder.objects.filter(order_id="bulk-00000400").update(created_ms=1)

        found = rows(viewer, f"{ORDERS}?created=1h")

        assert found[0] == "bulk-00000399"

    def test_orders_by_their_clearing_s_state(self, viewer: Client) -> None:
        found = viewer.get(f"{ORDERS}?state=parked").context["cl"].result_list

        assert {row.clearing.state for row in found} == {"parked"}


class TestPages:
    @pytest.fixture(autouse=True)
    def orders(self, db: None) -> None:
        create_orders(80, users=20)

    @pytest.mark.parametrize("name", ["clearing_clearing", "orders_syncorder"])
    def test_an_order_s_page_shows_operations_attempts_and_changes(self, viewer: Client, name: str) -> None:
        parked = Clearing.objects.filter(state="parked").select_related("order").latest("pk")
        pk = parked.pk if name == "clearing_clearing" else parked.order_id

        text = viewer.get(reverse(f"admin:{name}_change", args=[pk])).content.decode()

        for shown in (f"{parked.order.order_id}:3", parked.error_code, "worker@bulk", "Status changes", "(new)"):
            assert shown in text

    def test_nothing_can_be_added_changed_or_deleted(self, viewer: Client, admin_client: Client) -> None:
        clearing = Clearing.objects.latest("pk")
        page = reverse("admin:clearing_clearing_change", args=[clearing.pk])

        for client in (viewer, admin_client):
            assert client.get(f"{CLEARINGS}add/").status_code == 403
            assert client.post(page, {"state": "cleared"}).status_code == 403
            assert client.post(page.replace("change", "delete"), {"post": "yes"}).status_code == 403
            assert "delete_selected" not in client.get(CLEARINGS).content.decode()

    def test_who_may_not_look_sees_nothing(self, client: Client, django_user_model: Any) -> None:
        client.force_login(django_user_model.objects.create_user("stranger", is_staff=True))

        assert client.get(CLEARINGS).status_code == 403
        assert "overview" not in client.get("/admin/").context

    def test_the_front_page_counts_orders_in_flight(self, viewer: Client) -> None:
        shown = viewer.get("/admin/").context["overview"]

        assert {tile.title: tile.value for tile in shown.tiles}["parked"] == str(Clearing.objects.filter(state="parked").count())
        assert len(shown.parked) > 0

    def test_the_front_page_shows_how_far_each_shard_is_known(self, viewer: Client) -> None:
        now_ms = int(time.time() * 1000)
        Watermark.objects.create(shard=2, newest_ms=now_ms - 5_000, scanned_through_ms=now_ms - 300_000, found_by_gap=1_234)
        Watermark.objects.create(shard=3, found_by_gap=0)

        page = viewer.get("/admin/")
        shards = {shard.number: shard for shard in page.context["overview"].shards}

        assert (shards[2].compared, shards[2].found_by_gap, shards[2].danger) == ("5 min", "1,234", True)
        assert (shards[3].newest, shards[3].compared) == ("-", "-")
        assert "1,234" in page.content.decode()


class TestCost:
    def test_a_list_asks_the_same_for_five_rows_and_for_fifty(self, viewer: Client) -> None:
        create_orders(200, users=50)
        newest = SyncOrder.objects.order_by("-pk").values_list("order_id", flat=True)
        few, many = newest[0][:12], newest[0][:10]  # the same search, by a longer and by a shorter beginning

        for url in (CLEARINGS, ORDERS):
            assert len(rows(viewer, f"{url}?q={few}")) <= 10
            assert len(rows(viewer, f"{url}?q={many}")) == 50
            assert queries(viewer, f"{url}?q={few}") == queries(viewer, f"{url}?q={many}")

    def test_with_ten_thousand_orders_no_page_reads_more_than_it_must(self, viewer: Client) -> None:
        create_orders(10_000)
        connection.cursor().execute("ANALYZE")
        clearing = Clearing.objects.filter(state="parked").latest("pk")
        shown, counted = 1_000, 11_000  # rows; a list without a filter counts its rows as well, up to ten thousand
        pages = {
            "/admin/": shown,
            CLEARINGS: counted,
            f"{CLEARINGS}?state=parked": 4_000,
            f"{CLEARINGS}?p=150": counted + 3 * 150 * 50,  # what stands before the page is passed over in each of its tables
            f"{CLEARINGS}?q=bulk-00001234": shown,
            reverse("admin:clearing_clearing_change", args=[clearing.pk]): shown,
            ORDERS: counted,
            f"{ORDERS}?q=1007": shown,
            reverse("admin:orders_syncorder_change", args=[clearing.order_id]): shown,
        }

        read = {page: rows_read(viewer, page) for page in pages}

        assert {page: rows for page, rows in read.items() if rows > pages[page]} == {}


def rows_read(client: Client, page: str) -> int:
    """How many rows PostgreSQL looks at for a page: those that its scans give and those that they
    throw away.
    """
    with CaptureQueriesContext(connection) as captured:
        assert client.get(page).status_code == 200
    with connection.cursor() as cursor:
        total = 0
        for query in captured:
            if query["sql"].startswith("SELECT"):
                cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query["sql"].replace("%", "%%"), ())
                total += scanned(cursor.fetchone()[0][0]["Plan"])
    return total


def scanned(plan: dict[str, Any]) -> int:
    rows = 0
    if plan["Node Type"].endswith("Scan") and "Relation Name" in plan:
        rows = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return int(rows) + sum(scanned(part) for part in plan.get("Plans", []))


class TestQuarantine:
    @pytest.fixture(autouse=True)
    def messages(self, db: None) -> None:
        for offset in range(6):
            Quarantined.objects.create(
                topic="counter.sync_order",
                partition=1,
                offset=offset,
                message_hash=str(offset),
                message=b'{"broken": \x00\xff' + b"x" * offset,
                source="kafka",
                reason=("unreadable", "contents_differ")[offset % 2],
                order_id=f"o-{offset}",
            )

    def test_reasons_can_be_told_apart(self, viewer: Client) -> None:
        page = viewer.get(f"{QUARANTINE}?reason=unreadable")

        assert {message.reason for message in page.context["cl"].result_list} == {"unreadable"}
        assert "contents_differ" in page.content.decode()  # as the other choice

    def test_a_message_is_shown_as_text_and_as_bytes(self, viewer: Client) -> None:
        message = Quarantined.objects.latest("pk")

        text = viewer.get(reverse("admin:orders_quarantined_change", args=[message.pk])).content.decode()

        assert "\\xff" in text
        assert "7b 22 62 72 6f 6b 65 6e" in text

    @pytest.mark.parametrize("term", ["o-3", "counter.sync_order/1@3"])
    def test_one_is_found_by_its_order_or_its_place(self, viewer: Client, term: str) -> None:
        found = viewer.get(QUARANTINE, {"q": term}).context["cl"].result_list

        assert [message.offset for message in found] == [3]

    def test_a_list_does_not_load_the_bytes(self, viewer: Client) -> None:
        with CaptureQueriesContext(connection) as captured:
            viewer.get(QUARANTINE)

        assert not [query for query in captured if '"orders_quarantined"."message",' in query["sql"]]


def test_watermarks_show_how_old_they_are(viewer: Client) -> None:
    Watermark.objects.create(shard=2, newest_ms=int(time.time() * 1000) - 90_000, found_by_gap=7)

    text = viewer.get("/admin/orders/watermark/").content.decode()

    assert "90 s" in text or "91 s" in text
