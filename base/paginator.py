"""Pages over tables of any size: counts exactly where that is cheap, and uses the planner's
estimate beyond.
"""

import json
from functools import cached_property
from typing import Any

from django.core.exceptions import EmptyResultSet
from django.core.paginator import Paginator
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet

EXACT_ROWS_MAX = 20_000  # a count of so many rows takes milliseconds; more pages than anybody turns
COUNT_MS_MAX = 250  # few rows may still take a long scan to find


class EstimatingPaginator(Paginator[Any]):
    """A paginator whose `count` never scans a big table: two queries at most, each bounded.
    `estimated` says which kind it is.
    """

    template_name = "base/pagination.html"  # as unfold looks for it

    @cached_property
    def count(self) -> int:
        estimate = self.estimate
        if estimate > EXACT_ROWS_MAX:
            return estimate
        counted = self._count_exactly()
        self.estimated = counted is None or counted > EXACT_ROWS_MAX
        return estimate if counted is None else max(counted, estimate) if self.estimated else counted

    estimated = True

    @cached_property
    def estimate(self) -> int:
        """The planner's estimate of the number of rows, from the table's statistics."""
        try:
            sql, params = _unordered(self.object_list).query.sql_with_params()
        except EmptyResultSet:  # its condition can't be met
            return 0
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
            (plan,) = cursor.fetchone()
        rows = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]["Plan Rows"]
        return int(rows)

    def _count_exactly(self) -> int | None:
        """The number of rows, at most EXACT_ROWS_MAX + 1; None when counting took too long."""
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(COUNT_MS_MAX)])
                return _unordered(self.object_list)[: EXACT_ROWS_MAX + 1].count()
        except OperationalError:
            return None


def _unordered(rows: Any) -> QuerySet[Any]:
    """The rows' primary keys alone: order and annotations don't change their number."""
    found: QuerySet[Any] = rows.order_by().values("pk")
    return found
