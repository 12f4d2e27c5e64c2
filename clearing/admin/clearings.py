"""How orders are cleared: the list to find one, the page to understand it, and from there the
operator actions (`interventions.py`) and the retry (`retry.py`).
"""

from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from django.contrib import admin
from django.db import connection
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString
from unfold.decorators import action
from unfold.enums import ActionVariant

from base.clock import ServiceNow
from base.desk.journal import note_look
from base.filters import PeriodFilter, by_field
from base.parameters import ids_in
from base.readable import amount
from base.readonly import ReadOnlyAdmin, column
from clearing.admin.counterparties import CounterpartyAdmin
from clearing.admin.interventions import InterventionAdmin, read_resolution, request_page
from clearing.admin.journey import VARIANTS, Journey, age, read_journey
from clearing.admin.retry import RETRIED_AT_ONCE_MAX, is_offered, may_retry, retry_page
from clearing.flow.amounts import USDT
from clearing.flow.flows import LAST_STEP
from clearing.interventions.case import read_cases
from clearing.models import Clearing
from clearing.status import ACTIVE, FINAL, State
from orders.admin import COINS, SHOWN_FIELDS, SyncOrderAdmin, order_id_in, utc_text
from orders.models import Direction, Source, SyncOrder

__all__ = ["CounterpartyAdmin", "InterventionAdmin"]  # registered by their import
STATE_LABELS = {state: VARIANTS.get(state, "") for state in State}
SEARCHED_ORDERS_MAX = 500
ERROR_CODES_MAX = 100
UNFINISHED_PAGE = "unfinished"


class StateFilter(admin.SimpleListFilter):
    """By state, and all that isn't finished; each is answered by a partial index or by the newest
    rows.
    """

    title = "state"
    parameter_name = "state"
    prefix: ClassVar[str] = ""

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(UNFINISHED_PAGE, "unfinished"), ("active", "active (holds its lane)"), *((state.value, state.value) for state in State)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value, field = self.value(), f"{self.prefix}state"
        if value == UNFINISHED_PAGE:
            return queryset.filter(**{f"{field}__in": [state for state in State if state not in FINAL]})
        if value == "active":
            return queryset.filter(**{f"{field}__in": ACTIVE})
        return queryset.filter(**{field: value}) if value in State.values else queryset


def _in(value: Decimal | None, asset: str) -> str:
    return amount(value) if value is None else f"{amount(value)} {asset}"


class OrderStateFilter(StateFilter):
    """The same, of an order's clearing."""

    prefix = "clearing__"


# Skips from one code to the next in a partial index, so that its cost grows with the number of
# codes, not of unfinished orders.
ERROR_CODES_SQL = """
    WITH RECURSIVE codes (code) AS (
        (SELECT error_code FROM clearing_clearing WHERE state <> 'cleared' AND error_code <> '' ORDER BY error_code LIMIT 1)
        UNION ALL
        SELECT (
            SELECT c.error_code FROM clearing_clearing c WHERE c.state <> 'cleared' AND c.error_code <> '' AND c.error_code > codes.code
            ORDER BY c.error_code LIMIT 1
        ) FROM codes WHERE codes.code IS NOT NULL
    ) SELECT code FROM codes WHERE code IS NOT NULL LIMIT %s
"""


class ErrorFilter(admin.SimpleListFilter):
    """The error codes of clearings that aren't cleared."""

    title = "error"
    parameter_name = "error"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        with connection.cursor() as cursor:
            cursor.execute(ERROR_CODES_SQL, [ERROR_CODES_MAX])
            return [(code, code) for (code,) in cursor.fetchall()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if not self.value():
            return queryset
        return queryset.filter(error_code=self.value()).exclude(state=State.CLEARED)


@admin.register(Clearing)
class ClearingAdmin(ReadOnlyAdmin):
    """Every clearing, newest first."""

    list_display = (
        *("order_shown", "user_id", "what", "state_label", "step_shown", "age_shown"),
        *("tries", "error_code", "slippage_cents", "created_shown"),
    )
    list_filter = (
        StateFilter,
        ErrorFilter,
        by_field("order__direction", "direction", Direction.choices),
        by_field("order__asset", "asset", COINS),
        by_field("order__source", "source", Source.choices),
        "restored",
        PeriodFilter,
    )
    search_fields = ("order__order_id", "user_id")
    search_help_text = "Order id (or its beginning), idempotency key, or a whole user id"
    list_select_related = ("order",)
    actions = ("retry_selected",)
    actions_detail = ("retry_this",)
    change_form_outer_before_template = "clearing/resolution.html"
    change_form_outer_after_template = "clearing/journey.html"
    fieldsets = (
        (
            "Its clearing",
            {
                "fields": (
                    ("state_shown", "step_shown", "age_shown"),
                    ("error_code", "hold_code"),
                    ("slippage", "surplus_shown", "dust_shown"),
                    ("tries", "due_at"),
                    ("claim", "restored"),
                    ("accepted_at", "started_at", "cleared_at"),
                )
            },
        ),
        ("The order", {"fields": (("order_link", "contract_id"), ("user_id", "created"), ("what", "quoted"))}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Clearing]:
        return Clearing.objects.select_related("order").annotate(now=ServiceNow())

    def find(self, rows: QuerySet[Clearing], term: str) -> QuerySet[Clearing]:
        meant = SyncOrder.objects.filter(order_id__startswith=order_id_in(term)).values_list("pk", flat=True)
        return rows.filter(Q(order__in=list(meant[:SEARCHED_ORDERS_MAX])) | Q(user_id=term))

    # -- what is shown --

    @column("order", ordering="pk")
    def order_shown(self, clearing: Clearing) -> str:
        return clearing.order.order_id

    @column("order")
    def order_link(self, clearing: Clearing) -> SafeString:
        return format_html('<a href="{}">{}</a>', reverse("admin:orders_syncorder_change", args=[clearing.order_id]), clearing.order.order_id)

    @column("what")
    def what(self, clearing: Clearing) -> str:
        return f"{clearing.order.direction} {amount(clearing.order.quantity)} {clearing.order.asset}"

    @column("quoted USDT")
    def quoted(self, clearing: Clearing) -> str:
        return amount(clearing.order.quoted_usdt)

    @column("state", label=STATE_LABELS)
    def state_label(self, clearing: Clearing) -> str:
        return clearing.state

    @column("state")
    def state_shown(self, clearing: Clearing) -> str:
        return state_label(clearing)

    @column("attempts")
    def tries(self, clearing: Clearing) -> int:
        return clearing.attempts

    @column("claim")
    def claim(self, clearing: Clearing) -> str:
        if not clearing.claimed_until:
            return f"none; epoch {clearing.epoch}, lane {clearing.lane}"
        return f"{clearing.claimed_by} until {clearing.claimed_until:%H:%M:%S}; epoch {clearing.epoch}, lane {clearing.lane}"

    @column("step")
    def step_shown(self, clearing: Clearing) -> str:
        return f"{clearing.step} / {LAST_STEP}"

    @column("age")
    def age_shown(self, clearing: Clearing) -> str:
        return age(clearing, clearing.created_ms, _now(clearing))

    @column("slippage USDT")
    def slippage(self, clearing: Clearing) -> str:
        return amount(clearing.slippage_usdt)

    @column("surplus (negative: missing)")
    def surplus_shown(self, clearing: Clearing) -> str:
        return _in(clearing.surplus, clearing.order.asset if clearing.order.direction == Direction.OPEN else USDT)

    @column("dust, stays in the fund")
    def dust_shown(self, clearing: Clearing) -> str:
        return _in(clearing.dust, USDT if clearing.order.direction == Direction.OPEN else clearing.order.asset)

    @column("slippage")
    def slippage_cents(self, clearing: Clearing) -> str:
        return amount(None) if clearing.slippage_usdt is None else f"{clearing.slippage_usdt:,.2f}"

    @column("created (UTC)")
    def created(self, clearing: Clearing) -> str:
        return utc_text(clearing.created_ms)

    @column("created (UTC)")
    def created_shown(self, clearing: Clearing) -> str:
        return utc_text(clearing.created_ms)[5:]

    # -- the page of one --

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        clearing = self.get_object(request, object_id)
        if clearing and request.method == "GET":
            note_look("clearing", clearing.order.order_id)
        context = _page(request, clearing, f"Clearing of {clearing.order.order_id}") if clearing else {}
        answer: HttpResponse = super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})
        return answer

    # -- retry --

    def has_retry_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Of one clearing: also whether its situation allows a retry, so that its page offers only
        what can be done.
        """
        if object_id is None or not may_retry(request):
            return may_retry(request)
        clearings = Clearing.objects.select_related("order").filter(pk__in=ids_in(str(object_id), limit=1))
        return any(is_offered(case) for case in read_cases(list(clearings)))

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [
            path("retry/", view(self.retry_view), name="clearing_clearing_retry"),
            path("<int:pk>/ask/<str:kind>/", view(self.request_view), name="clearing_clearing_ask"),
            *super().get_urls(),
        ]

    def request_view(self, request: HttpRequest, pk: int, kind: str) -> HttpResponse:
        """Asks for reason and evidence, then for a second operator's approval."""
        return request_page(request, self, pk, kind)

    def retry_view(self, request: HttpRequest) -> HttpResponse:
        """Asks for the reason, then retries."""
        return retry_page(request, self)

    @admin.action(description="Retry …", permissions=["retry"])
    def retry_selected(self, request: HttpRequest, queryset: QuerySet[Clearing]) -> HttpResponse:
        return _to_retry_page(list(queryset.values_list("pk", flat=True)[:RETRIED_AT_ONCE_MAX]))

    @action(description="Retry …", url_path="retry-this", permissions=["retry"], icon="replay", variant=ActionVariant.PRIMARY)  # type: ignore[untyped-decorator]
    def retry_this(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _to_retry_page(ids_in(object_id, limit=1))


def _page(request: HttpRequest, clearing: Clearing, title: str) -> dict[str, Any]:
    """What an order's page shows above and below its fields."""
    journey: Journey = read_journey(clearing)
    return {"journey": journey, "resolution": read_resolution(request, clearing, journey), "title": title}


def state_label(clearing: Clearing) -> str:
    """The state as a coloured label, for pages; lists colour their columns themselves."""
    return render_to_string("unfold/helpers/label.html", {"text": clearing.state, "variant": VARIANTS.get(clearing.state, "")})


def _now(row: Clearing | SyncOrder) -> datetime:
    now: datetime = row.now  # type: ignore[union-attr]  # annotated
    return now


def _to_retry_page(ids: list[int]) -> HttpResponseRedirect:
    return HttpResponseRedirect(f"{reverse('admin:clearing_clearing_retry')}?{urlencode({'ids': ','.join(map(str, ids))})}")


@admin.register(SyncOrder)
class ClearedOrderAdmin(SyncOrderAdmin):
    """A sync order with what became of it."""

    list_display = ("order_id", "user_id", "what", "quoted", "state_label", "step_shown", "age_shown", "error", "source_label", "created_shown")
    list_filter = (OrderStateFilter, *SyncOrderAdmin.list_filter)
    list_select_related = ("clearing",)
    change_form_outer_before_template = "clearing/resolution.html"
    change_form_outer_after_template = "clearing/journey.html"
    fieldsets = (
        ("Its clearing", {"fields": (("state_shown", "step_shown", "age_shown"), ("error", "slippage", "clearing_link"))}),
        *SHOWN_FIELDS,
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[SyncOrder]:
        return SyncOrder.objects.select_related("clearing").annotate(now=ServiceNow())

    @column("state", label=STATE_LABELS)
    def state_label(self, order: SyncOrder) -> str:
        return order.clearing.state

    @column("state")
    def state_shown(self, order: SyncOrder) -> str:
        return state_label(order.clearing)

    @column("step")
    def step_shown(self, order: SyncOrder) -> str:
        return f"{order.clearing.step} / {LAST_STEP}"

    @column("age")
    def age_shown(self, order: SyncOrder) -> str:
        return age(order.clearing, order.created_ms, _now(order))

    @column("error")
    def error(self, order: SyncOrder) -> str:
        return order.clearing.error_code

    @column("slippage USDT")
    def slippage(self, order: SyncOrder) -> str:
        return amount(order.clearing.slippage_usdt)

    @column("clearing")
    def clearing_link(self, order: SyncOrder) -> SafeString:
        return format_html('<a href="{}">open, retry</a>', reverse("admin:clearing_clearing_change", args=[order.clearing.pk]))

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        order = self.get_object(request, object_id)
        if order and request.method == "GET":
            note_look("order", order.order_id)
        context = _page(request, order.clearing, f"Order {order.order_id}") if order else {}
        answer: HttpResponse = super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})
        return answer
