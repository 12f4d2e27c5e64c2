"""The estimating paginator: exact where it is cheap, never a scan of a big table."""

from typing import Any

import pytest

from base import paginator
from base.paginator import EstimatingPaginator
from orders.models import SyncOrder
from tests.support.bulk import create_orders


@pytest.fixture
def orders(db: None) -> None:
    create_orders(300, users=30)


@pytest.mark.usefixtures("orders")
class TestCount:
    def test_few_rows_are_counted_exactly(self) -> None:
        pages = EstimatingPaginator(SyncOrder.objects.filter(user_id="1001").order_by("-pk"), 5)

        assert (pages.count, pages.estimated) == (10, False)

    def test_none_is_none(self) -> None:
        pages = EstimatingPaginator(SyncOrder.objects.filter(user_id="nobody").order_by("pk"), 5)

        assert (pages.count, pages.estimated, pages.num_pages) == (0, False, 1)

    def test_many_rows_are_estimated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(paginator, "EXACT_ROWS_MAX", 100)
        pages = EstimatingPaginator(SyncOrder.objects.order_by("pk"), 50)

        assert pages.estimated
        assert pages.count == pytest.approx(300, rel=0.2)

    def test_a_query_that_finds_nothing_at_all_by_its_condition_is_empty(self) -> None:
        pages = EstimatingPaginator(SyncOrder.objects.none().order_by("pk"), 50)

        assert pages.count == 0

    def test_it_asks_twice_at_most(self, django_assert_max_num_queries: Any) -> None:
        pages = EstimatingPaginator(SyncOrder.objects.order_by("pk"), 50)

        with django_assert_max_num_queries(6):  # with the savepoint and its limit
            assert pages.count == 300
