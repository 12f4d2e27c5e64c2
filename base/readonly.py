"""The base of the admin's read-only pages, for tables of any size."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from base.paginator import EstimatingPaginator

Shown = TypeVar("Shown", bound=Callable[..., object])


def column(description: str, *, label: str | Mapping[Any, str] | None = None, ordering: str | None = None) -> Callable[[Shown], Shown]:
    """A column of a list or a field of a page: its heading, its colours (one, or by value) and the
    field that it is sorted by.
    """

    def describe(shown: Shown) -> Shown:
        attributes = {"short_description": description, "label": label, "admin_order_field": ordering}
        for name, value in attributes.items():
            if value is not None:
                setattr(shown, name, value)
        return shown

    return describe


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """Nothing is added, changed or deleted by a form; no page counts a whole table; lists are
    sorted by primary key, newest first, which an index gives.
    """

    paginator = EstimatingPaginator
    show_full_result_count = False
    list_per_page = 50
    list_max_show_all = 200
    ordering = ("-pk",)
    list_display: ClassVar[tuple[str, ...]]
    list_filter: ClassVar[tuple[Any, ...]] = ()
    fieldsets: ClassVar[tuple[Any, ...] | None] = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def find(self, rows: QuerySet[Any], term: str) -> QuerySet[Any]:
        """The rows for a search term, found by an index: no `%term%`. Each admin with a search
        overrides it.
        """
        raise NotImplementedError

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip().replace("\0", "")
        return (self.find(queryset, term) if term and self.search_fields else queryset), False
