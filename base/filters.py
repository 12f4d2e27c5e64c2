"""List filters without a query of their own: their choices are fixed, and none shows a count."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar

from django.contrib.admin import ModelAdmin, SimpleListFilter
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

PERIODS = {"10m": timedelta(minutes=10), "1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7)}
PERIOD_TITLES = {"10m": "last 10 minutes", "1h": "last hour", "1d": "last day", "7d": "last 7 days"}


class FieldFilter(SimpleListFilter):
    """One field equals one of the given values."""

    field: ClassVar[str]
    choices_given: ClassVar[Iterable[tuple[str, str]]]

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return list(self.choices_given)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.field: self.value()}) if self.value() else queryset


def by_field(field: str, title: str, choices: Iterable[tuple[str, str]], *, parameter: str = "") -> type[FieldFilter]:
    """A filter on a field (may reach over relations) with fixed choices."""
    name = parameter or field.rpartition("__")[2]
    attributes = {"field": field, "title": title, "parameter_name": name, "choices_given": tuple(choices)}
    return type(f"{name.title()}Filter", (FieldFilter,), attributes)


class PeriodFilter(SimpleListFilter):
    """Created at the counter within a period, by the row's own milliseconds."""

    title = "created"
    parameter_name = "created"
    field: ClassVar[str] = "created_ms"

    def lookups(self, request: HttpRequest, model_admin: ModelAdmin[Any]) -> list[tuple[str, str]]:
        return list(PERIOD_TITLES.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        period = PERIODS.get(self.value() or "")
        if period is None:
            return queryset
        since = timezone.now() - period
        return queryset.filter(**{f"{self.field}__gte": int(since.timestamp() * 1000)})
