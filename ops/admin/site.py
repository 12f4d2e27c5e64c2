"""The admin's front page, its users, and the audit log."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from base.readonly import ReadOnlyAdmin, column
from ops.admin.nodes import NodesAdmin
from ops.admin.quarantine import ReplayableQuarantinedAdmin

__all__ = ["NodesAdmin", "ReplayableQuarantinedAdmin"]  # registered by their import

admin.site.index_template = "ops/front.html"
admin.site.index_title = "Overview"
admin.site.unregister(User)
admin.site.unregister(Group)


@admin.register(User)
class ThemedUserAdmin(UserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]  # unfold has no types
    """Django's own, with the theme's forms."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class ThemedGroupAdmin(GroupAdmin, ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """Django's own, in the theme."""


@admin.register(LogEntry)
class AuditLogAdmin(ReadOnlyAdmin):
    """Every action in the admin with its user: retries with their reason, replays with their
    result.
    """

    list_display = ("action_time", "user", "what", "object_repr", "message")
    fields = ("action_time", "user", "what", "object_repr", "message")
    search_fields = ("user__username",)
    search_help_text = "A whole user name"

    def get_queryset(self, request: HttpRequest) -> QuerySet[LogEntry]:
        return LogEntry.objects.select_related("user", "content_type")

    def find(self, rows: QuerySet[LogEntry], term: str) -> QuerySet[LogEntry]:
        return rows.filter(user__username=term)

    @column("on")
    def what(self, entry: LogEntry) -> str:
        return str(entry.content_type or "")

    @column("message")
    def message(self, entry: LogEntry) -> Any:
        return entry.get_change_message()
