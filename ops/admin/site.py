"""The admin's front page, its users, and the audit log."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from base.readonly import ReadOnlyAdmin, column
from clearing.models import Clearing
from ops.admin.nodes import NodesAdmin
from ops.admin.people import PeopleAdmin
from ops.admin.proposals import ProposalAdmin
from ops.admin.quarantine import ReplayableQuarantinedAdmin

__all__ = ["NodesAdmin", "PeopleAdmin", "ProposalAdmin", "ReplayableQuarantinedAdmin"]  # registered by their import

admin.site.index_template = "ops/front.html"
admin.site.index_title = "Overview"


@admin.register(LogEntry)
class AuditLogAdmin(ReadOnlyAdmin):
    """Every action in the admin with its user: retries with their reason, replays with their
    result.
    """

    list_display = ("action_time", "user", "what", "object_repr", "message")
    fields = ("action_time", "user", "what", "object_repr", "message")
    search_fields = ("user__username",)
    search_help_text = "A whole user name, or a whole order id"

    def get_queryset(self, request: HttpRequest) -> QuerySet[LogEntry]:
        return LogEntry.objects.select_related("user", "content_type")

    def find(self, rows: QuerySet[LogEntry], term: str) -> QuerySet[LogEntry]:
        orders = [str(pk) for pk in Clearing.objects.filter(order__order_id=term).values_list("pk", flat=True)]
        about = Q(content_type__app_label="clearing", content_type__model="clearing", object_id__in=orders)
        return rows.filter(Q(user__username=term) | about)

    @column("on")
    def what(self, entry: LogEntry) -> str:
        return str(entry.content_type or "")

    @column("message")
    def message(self, entry: LogEntry) -> Any:
        return entry.get_change_message()
