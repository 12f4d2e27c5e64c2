"""Read-only pages of the intake: sync orders, quarantined messages, watermarks, reconcile runs.
`clearing/admin/clearings.py` adds an order's clearing to its page.
"""

import re
from datetime import UTC, datetime
from typing import Any, ClassVar, Final

from django.conf import settings
from django.contrib import admin
from django.db import connection
from django.db.models import F, Func, IntegerField, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from base.clock import ServiceNow
from base.filters import PeriodFilter, by_field
from base.parameters import number_in
from base.readable import amount, duration, hex_of, text_of
from base.readonly import ReadOnlyAdmin, column
from orders.models import Direction, Quarantined, QuarantinedMessage, ReconcileRun, Source, SyncOrder, Watermark

COINS = [(asset, asset) for asset in settings.ASSET_SCALES if asset != "USDT"]
REASONS_MAX = 50
WHOLE_CHARACTERS_MAX = 50_000
COUNTED_MAX = 1_000  # of each reason: a number to look at, not worth reading a big table for


KEY_ENDING: Final = re.compile(r":[1-9](\.[0-9]{1,2})?(:r[0-9]{1,5})?\Z")  # of an idempotency key: step, part, revision


def order_id_in(term: str) -> str:
    """The order id in a search term, which may also be an idempotency key
    (`{order_id}:{step}[.{part}][:r{n}]`). An id from a release that took such ids may have colons
    of its own.
    """
    return KEY_ENDING.sub("", term)


def orders_matching(term: str) -> Q:
    """Orders by their id (or its beginning), or by the user's whole id; each uses an index."""
    return Q(order_id__startswith=order_id_in(term)) | Q(user_id=term)


SHOWN_FIELDS: tuple[Any, ...] = (
    ("The order", {"fields": (("order_id", "contract_id"), ("user_id", "created"), ("what", "quoted"), ("price", "instrument"))}),
    ("Source", {"fields": (("source", "place", "received_at"), ("shard", "sequence", "late"), ("canonical_hash",))}),
)


class SyncOrderAdmin(ReadOnlyAdmin):
    """The counter's row as it was accepted."""

    list_display: ClassVar[tuple[str, ...]] = ("order_id", "user_id", "what", "quoted", "created_shown", "source_label", "late")
    list_filter: ClassVar[tuple[Any, ...]] = (
        by_field("direction", "direction", Direction.choices),
        by_field("asset", "asset", COINS),
        by_field("source", "source", Source.choices),
        PeriodFilter,
    )
    search_fields = ("order_id", "user_id")
    search_help_text = "Order id (or its beginning), idempotency key, or a whole user id"
    fieldsets: ClassVar[tuple[Any, ...] | None] = SHOWN_FIELDS

    def find(self, rows: QuerySet[SyncOrder], term: str) -> QuerySet[SyncOrder]:
        return rows.filter(orders_matching(term))

    @column("order")
    def what(self, order: SyncOrder) -> str:
        return f"{order.direction} {amount(order.quantity)} {order.asset}"

    @column("quoted USDT")
    def quoted(self, order: SyncOrder) -> str:
        return amount(order.quoted_usdt)

    @column("price USDT")
    def price(self, order: SyncOrder) -> str:
        return f"{order.price:,.2f}"

    @column("created at the counter (UTC)")
    def created(self, order: SyncOrder) -> str:
        return utc_text(order.created_ms)

    @column("created (UTC)")
    def created_shown(self, order: SyncOrder) -> str:
        return utc_text(order.created_ms)[5:]

    @column("source", label={Source.KAFKA: "info", Source.GAP: "warning", Source.REPLAY: "primary", Source.RESTORE: "primary"})
    def source_label(self, order: SyncOrder) -> str:
        return order.source

    @column("position in the topic")
    def place(self, order: SyncOrder) -> str:
        return f"{order.topic} / {order.partition} @ {order.offset}" if order.topic else "-"


# Skips from one reason to the next in the index, so that its cost grows with the number of reasons,
# not of messages.
REASONS_SQL = """
    WITH RECURSIVE reasons (reason) AS (
        (SELECT reason FROM orders_quarantined ORDER BY reason LIMIT 1)
        UNION ALL
        SELECT (SELECT q.reason FROM orders_quarantined q WHERE q.reason > r.reason ORDER BY q.reason LIMIT 1)
        FROM reasons r WHERE r.reason IS NOT NULL
    ) SELECT r.reason, (SELECT count(*) FROM (SELECT FROM orders_quarantined q WHERE q.reason = r.reason LIMIT %s) AS counted)
    FROM (SELECT reason FROM reasons WHERE reason IS NOT NULL LIMIT %s) AS r
"""


class ReasonFilter(admin.SimpleListFilter):
    """The reasons in use, each with its number of messages: the list's groups."""

    title = "reason"
    parameter_name = "reason"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        with connection.cursor() as cursor:
            cursor.execute(REASONS_SQL, [COUNTED_MAX + 1, REASONS_MAX])
            return [(reason, f"{reason} ({count if count <= COUNTED_MAX else f'over {COUNTED_MAX}'})") for reason, count in cursor.fetchall()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Quarantined]) -> QuerySet[Quarantined]:
        return queryset.filter(reason=self.value()) if self.value() else queryset


class ReplayedFilter(admin.SimpleListFilter):
    """Whether a replay has ingested the message."""

    title = "replayed"
    parameter_name = "replayed"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("no", "not yet"), ("yes", "replayed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Quarantined]) -> QuerySet[Quarantined]:
        return queryset.filter(replayed_at__isnull=self.value() == "no") if self.value() in {"no", "yes"} else queryset


class QuarantinedAdmin(ReadOnlyAdmin):
    """Messages that were unreadable or refused, with all their bytes. `ops/admin/quarantine.py`
    adds their replay.
    """

    list_display: ClassVar[tuple[str, ...]] = ("quarantined_at", "reason_label", "place", "order_id", "size", "detail_start", "replayed_at")
    list_filter: ClassVar[tuple[Any, ...]] = (ReasonFilter, ReplayedFilter, by_field("source", "source", Source.choices))
    search_fields = ("order_id",)
    search_help_text = "A whole order id, or topic/partition@offset"
    fieldsets: ClassVar[tuple[Any, ...] | None] = (
        ("Reason", {"fields": (("reason_label", "order_id"), ("detail",), ("quarantined_at", "replayed_at"))}),
        ("Message", {"fields": (("place", "source"), ("message_hash",), ("as_text",), ("as_hex",), ("whole",))}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Quarantined]:
        """Without the bytes, which may be many; the page of one message loads its own."""
        return Quarantined.objects.defer("message").annotate(message_bytes=Func(F("message"), function="octet_length", output_field=IntegerField()))

    def find(self, rows: QuerySet[Quarantined], term: str) -> QuerySet[Quarantined]:
        topic, _, rest = term.rpartition("/")
        partition, _, offset = (number_in(part) for part in rest.partition("@"))
        if topic and partition is not None and offset is not None:
            return rows.filter(topic=topic, partition=partition, offset=offset)
        return rows.filter(order_id=order_id_in(term))

    @column("reason", label="danger", ordering="reason")
    def reason_label(self, message: Quarantined) -> str:
        return message.reason

    @column("position in the topic")
    def place(self, message: Quarantined) -> str:
        return f"{message.topic}/{message.partition}@{message.offset}"

    @column("bytes")
    def size(self, message: Quarantined) -> int:
        size: int | None = message.message_bytes  # type: ignore[attr-defined]  # annotated
        return size or 0

    @column("detail")
    def detail_start(self, message: Quarantined) -> str:
        return message.detail[:120]

    @column("as text")
    def as_text(self, message: Quarantined) -> SafeString:
        return _block(text_of(message.message))

    @column("as bytes")
    def as_hex(self, message: Quarantined) -> SafeString:
        return _block(hex_of(message.message))

    @column("whole message")
    def whole(self, message: Quarantined) -> SafeString | str:
        kept = QuarantinedMessage.objects.filter(pk=message.message_hash).first()
        if kept is None:
            return "the same: it has no other rows"
        text = text_of(kept.message)
        left_out = len(text) - WHOLE_CHARACTERS_MAX
        return _block(f"{text[:WHOLE_CHARACTERS_MAX]}\n… {left_out} characters more" if left_out > 0 else text)


def _block(text: str) -> SafeString:
    return format_html('<pre class="journey-pre">{}</pre>', text or "(empty)")


@admin.register(Watermark)
class WatermarkAdmin(ReadOnlyAdmin):
    """How far each shard of the counter has been compared, and how long ago."""

    list_display = ("shard", "newest", "newest_age", "scanned", "scanned_age", "found_by_gap", "scanned_at")
    ordering = ("shard",)
    fields = list_display

    def get_queryset(self, request: HttpRequest) -> QuerySet[Watermark]:
        return Watermark.objects.annotate(now=ServiceNow())

    @column("newest order (UTC)")
    def newest(self, watermark: Watermark) -> str:
        return utc_text(watermark.newest_ms)

    @column("its age")
    def newest_age(self, watermark: Watermark) -> str:
        return _age(watermark, watermark.newest_ms)

    @column("compared through (UTC)")
    def scanned(self, watermark: Watermark) -> str:
        return utc_text(watermark.scanned_through_ms)

    @column("its age")
    def scanned_age(self, watermark: Watermark) -> str:
        return _age(watermark, watermark.scanned_through_ms)


class DifferenceFilter(admin.SimpleListFilter):
    """Runs with a result that needs attention."""

    title = "found"
    parameter_name = "found"

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [("difference", "a difference"), ("unresolved", "still missing"), ("error", "not compared")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ReconcileRun]) -> QuerySet[ReconcileRun]:
        conditions = {
            "difference": Q(missing__gt=0) | Q(unknown__gt=0) | Q(no_sync_row__gt=0),
            "unresolved": Q(missing__gt=F("fetched")),
            "error": ~Q(error=""),
        }
        return queryset.filter(conditions[value]) if (value := self.value()) in conditions else queryset


@admin.register(ReconcileRun)
class ReconcileRunAdmin(ReadOnlyAdmin):
    """Comparisons of our orders with the counter's two tables, by shard; kept for 30 days."""

    list_display = ("at", "shard", "window", "ours", "sync_table", "order_table", "missing", "fetched", "no_sync_row", "unknown", "error_start")
    list_filter = (DifferenceFilter,)
    fields = (
        ("at", "shard", "window"),
        ("ours", "sync_table", "order_table", "minutes"),
        ("missing", "fetched", "no_sync_row", "unknown"),
        ("orders_found",),
        ("error",),
    )

    @column("window (UTC)")
    def window(self, run: ReconcileRun) -> str:
        return f"{utc_text(run.from_ms)[:16]} to {utc_text(run.to_ms)[:16]}"

    @column("error")
    def error_start(self, run: ReconcileRun) -> str:
        return run.error[:120]

    @column("orders")
    def orders_found(self, run: ReconcileRun) -> SafeString:
        return _block("\n".join(f"{kind}: {', '.join(order_ids)}" for kind, order_ids in run.order_ids.items()))


def utc_text(milliseconds: int) -> str:
    """Milliseconds since the epoch as text, UTC; "-" for 0. Never raises: a time that no calendar
    has is shown as it is, so that one odd row doesn't take its list with it.
    """
    if not milliseconds:
        return "-"
    try:
        second = datetime.fromtimestamp(milliseconds // 1000, tz=UTC)
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
    return f"{second:%Y-%m-%d %H:%M:%S}.{milliseconds % 1000:03d}"


def _age(watermark: Watermark, milliseconds: int) -> str:
    now: Any = watermark.now  # type: ignore[attr-defined]  # annotated
    return duration(now.timestamp() - milliseconds / 1000) if milliseconds else "-"
