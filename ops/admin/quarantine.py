"""The quarantine with its operator action: replay messages through the intake after the cause of
their refusal has been fixed.
"""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.http import urlencode
from unfold.decorators import action
from unfold.enums import ActionVariant

from base.desk.rights import may
from base.parameters import ids_in
from ops.wiring import ingest_from_replay
from orders.admin import QuarantinedAdmin
from orders.backfill.replay import ReplayedRow, replay_quarantined
from orders.backfill.verdicts import Verdict
from orders.intake.first_start import NotStarted, current_rules
from orders.intake.mapping import Rules
from orders.models import Quarantined

REPLAYED_AT_ONCE_MAX = 50  # each gets a message with its result; for more there is `manage.py replay --quarantined`
PERMISSION = "orders.change_quarantined"  # the only change that the admin makes to a message is a replay
RESULTS = {
    Verdict.NEW: "is a new order",
    Verdict.KNOWN: "is known already, with the same contents",
    Verdict.FILTERED: "is filtered out by the rules and stays here",
    Verdict.REFUSED: "is still refused: fix the cause first",
    Verdict.DIFFERS: "contradicts the accepted order: an operator has to decide",
}


@admin.register(Quarantined)
class ReplayableQuarantinedAdmin(QuarantinedAdmin):
    """The list and the page, with the replay."""

    actions = ("replay_selected",)
    actions_detail = ("replay_this",)

    def has_replay_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return may(request.user, PERMISSION)

    def get_urls(self) -> list[Any]:
        return [path("replay/", self.admin_site.admin_view(self.replay_view), name="orders_quarantined_replay"), *super().get_urls()]

    @admin.action(description="Replay …", permissions=["replay"])
    def replay_selected(self, request: HttpRequest, queryset: QuerySet[Quarantined]) -> HttpResponse:
        return _to_replay_page(list(queryset.values_list("pk", flat=True)[:REPLAYED_AT_ONCE_MAX]))

    @action(description="Replay …", url_path="replay-this", permissions=["replay"], icon="replay", variant=ActionVariant.PRIMARY)  # type: ignore[untyped-decorator]
    def replay_this(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return _to_replay_page(ids_in(object_id, limit=1))

    def replay_view(self, request: HttpRequest) -> HttpResponse:
        """GET shows the chosen messages and the result that a replay would have; POST replays."""
        if not self.has_replay_permission(request):
            raise PermissionDenied
        chosen = _chosen(request.POST.get("ids") or request.GET.get("ids") or "")
        try:
            rules = current_rules()
        except NotStarted as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(_back(chosen))
        if request.method == "POST":
            for row in chosen:
                _show(request, _replay(request, row, rules))
            return HttpResponseRedirect(_back(chosen))
        context = {
            **self.admin_site.each_context(request),
            "title": "Replay",
            "opts": Quarantined._meta,  # noqa: SLF001 as admin's own templates want it
            "chosen": [(row, RESULTS[replay_quarantined(row, rules, None).verdict]) for row in chosen],
            "ids": ",".join(str(row.pk) for row in chosen),
            "back": _back(chosen),
        }
        return TemplateResponse(request, "ops/replay_quarantined.html", context)


def _replay(request: HttpRequest, row: Quarantined, rules: Rules) -> ReplayedRow:
    """Not in one transaction with the line in the audit log: each batch of the intake commits by
    itself.
    """
    replayed = replay_quarantined(row, rules, ingest_from_replay)
    user: Any = request.user
    LogEntry.objects.log_actions(user.pk, [row], CHANGE, change_message=f"Replay: {_result(replayed)}")
    return replayed


def _result(replayed: ReplayedRow) -> str:
    return f"could not be replayed because of an internal error: {replayed.fault}" if replayed.fault else RESULTS[replayed.verdict]


def _show(request: HttpRequest, replayed: ReplayedRow) -> None:
    level = messages.SUCCESS if replayed.went_in else messages.ERROR if replayed.fault else messages.WARNING
    messages.add_message(request, level, f"{replayed.row} {_result(replayed)}")


def _chosen(ids: str) -> list[Quarantined]:
    return list(Quarantined.objects.filter(pk__in=ids_in(ids, limit=REPLAYED_AT_ONCE_MAX)).order_by("pk"))


def _back(chosen: Sequence[Quarantined]) -> str:
    if len(chosen) == 1:
        return reverse("admin:orders_quarantined_change", args=[chosen[0].pk])
    return reverse("admin:orders_quarantined_changelist")


def _to_replay_page(ids: list[int]) -> HttpResponseRedirect:
    return HttpResponseRedirect(f"{reverse('admin:orders_quarantined_replay')}?{urlencode({'ids': ','.join(map(str, ids))})}")
