"""The counterparties' states, the switch that pauses one or one of its steps, and the policies for
their errors.
"""

from typing import Any, ClassVar

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from unfold.admin import ModelAdmin
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from base.desk.actor import current
from base.desk.rights import may
from base.readonly import ReadOnlyAdmin, column
from clearing.admin.policy_changes import propose_change
from clearing.flow.flows import dues
from clearing.gateways import Counterparty, counterparty_state
from clearing.models import CounterpartyState, CounterpartyStateChange, ErrorPolicy, Pause
from clearing.status import Breaker

PERMISSION = "clearing.change_standing"
BREAKER_LABELS = {Breaker.CLOSED: "success", Breaker.HALF_OPEN: "warning", Breaker.OPEN: "danger"}
WHOLE = 0


def steps_of(counterparty: str) -> list[int]:
    """The steps that call it."""
    return sorted(int(step) for name, _, step in (due.partition(":") for due in dues()) if name == counterparty)


class PauseForm(forms.Form):
    """Which step to pause or resume, and why."""

    step = forms.TypedChoiceField(coerce=int, widget=UnfoldAdminSelectWidget, help_text="Orders wait before it; calls in flight are finished.")
    reason = forms.CharField(
        min_length=5,
        max_length=200,
        widget=UnfoldAdminTextInputWidget(attrs={"autofocus": True}),
        help_text="Kept with the change and in the audit log.",
    )

    def __init__(self, counterparty: str, paused: set[int], *, pausing: bool, data: Any = None) -> None:
        super().__init__(data)
        steps = [WHOLE, *steps_of(counterparty)]
        offered = [step for step in steps if (step in paused) != pausing]
        self.fields["step"].choices = [(step, f"step {step} alone" if step else "all of it") for step in offered]  # type: ignore[attr-defined]


class StoredNameAdmin(ReadOnlyAdmin):
    """The admin of a renamed model: its permissions keep the stored name, since groups hold
    them.
    """

    stored_name: ClassVar[str]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(f"clearing.view_{self.stored_name}") or request.user.has_perm(f"clearing.change_{self.stored_name}")


@admin.register(CounterpartyState)
class CounterpartyAdmin(StoredNameAdmin):
    """The three counterparties, each with its breaker, its pauses and its calls in flight."""

    stored_name = "standing"

    list_display = ("name", "breaker_label", "cause", "changed", "paused", "in_flight", "rate")
    fieldsets = (
        ("Its breaker", {"fields": (("breaker", "cause", "changed"), ("probe_at", "failures", "quiet_until"))}),
        ("Its calls", {"fields": (("in_flight", "rate", "paused"),)}),
    )
    ordering = ("name",)
    actions_detail = ("pause_this", "resume_this")
    change_form_outer_after_template = "clearing/counterparty_changes.html"

    @column("breaker", label=BREAKER_LABELS)
    def breaker_label(self, row: CounterpartyState) -> str:
        return row.breaker

    @column("last change (UTC)")
    def changed(self, row: CounterpartyState) -> str:
        """Of its breaker or a pause; the row's own time may be that of the migration that made
        it.
        """
        newest = CounterpartyStateChange.objects.filter(counterparty=row.name).order_by("-pk").first()
        return f"{newest.at:%Y-%m-%d %H:%M:%S}" if newest else "-"

    @column("paused by operators")
    def paused(self, row: CounterpartyState) -> str:
        pauses = Pause.objects.filter(counterparty=row.name).order_by("step")
        return "; ".join(f"{f'step {pause.step}' if pause.step else 'all'} by {pause.actor}: {pause.reason}" for pause in pauses) or "no"

    @column("in flight")
    def in_flight(self, row: CounterpartyState) -> str:
        return f"{counterparty_state.in_flight().get(row.name, 0)} of {counterparty_state.slots()} slots"

    @column("calls/s at most")
    def rate(self, row: CounterpartyState) -> str:
        rate = settings.COUNTERPARTY_RATES[row.name]
        return f"{rate:g}" if rate else "no limit"

    # -- the switch --

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        changes = CounterpartyStateChange.objects.filter(counterparty=object_id).order_by("-pk")[:50]
        answer: HttpResponse = super().change_view(request, object_id, form_url, {"changes": changes, **(extra_context or {})})
        return answer

    def has_pause_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return may(request.user, PERMISSION)

    def get_urls(self) -> list[Any]:
        views = [("pause", True), ("resume", False)]
        own = [
            path(f"<str:name>/{word}/", self.admin_site.admin_view(self.switch), {"pausing": pausing}, name=f"clearing_counterpartystate_{word}")
            for word, pausing in views
        ]
        return [*own, *super().get_urls()]

    @action(description="Pause …", url_path="pause-this", permissions=["pause"], icon="pause", variant=ActionVariant.PRIMARY)  # type: ignore[untyped-decorator]
    def pause_this(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:clearing_counterpartystate_pause", args=[object_id]))

    @action(description="Resume …", url_path="resume-this", permissions=["pause"], icon="play_arrow")  # type: ignore[untyped-decorator]
    def resume_this(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:clearing_counterpartystate_resume", args=[object_id]))

    def switch(self, request: HttpRequest, name: str, *, pausing: bool) -> HttpResponse:
        """GET asks for step and reason; POST pauses or resumes."""
        if not may(request.user, PERMISSION) or name not in list(Counterparty):
            raise PermissionDenied
        paused = set(Pause.objects.filter(counterparty=name).values_list("step", flat=True))
        form = PauseForm(name, paused, pausing=pausing, data=request.POST or None)
        back = reverse("admin:clearing_counterpartystate_change", args=[name])
        if request.method == "POST" and form.is_valid():
            _switch(request, name, form.cleaned_data["step"], form.cleaned_data["reason"], pausing=pausing)
            return HttpResponseRedirect(back)
        title = f"{'Pause' if pausing else 'Resume'} {name}"
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": CounterpartyState._meta,  # noqa: SLF001 as admin's own templates want it
            "form": form,
            "pausing": pausing,
            "back": back,
        }
        return TemplateResponse(request, "clearing/pause.html", context)


def _switch(request: HttpRequest, name: str, step: int, reason: str, *, pausing: bool) -> None:
    """The change and its line in the audit log are one transaction."""
    user: Any = request.user
    what = f"{'Paused' if pausing else 'Resumed'}: {f'step {step}' if step else 'all'}"
    with transaction.atomic():
        changed = counterparty_state.set_pause(name, step, paused=pausing, reason=reason, actor=user.get_username())
        if changed:
            row = CounterpartyState.objects.get_or_create(name=name)[0]
            LogEntry.objects.log_actions(user.pk, [row], CHANGE, change_message=f"{what}. {reason}")
    if changed:
        messages.success(request, f"{what}. Workers follow within a second.")
    else:
        messages.info(request, f"Already {'paused' if pausing else 'resumed'}; no change.")


@admin.register(CounterpartyStateChange)
class CounterpartyStateChangeAdmin(StoredNameAdmin):
    """Every change of a breaker and of a pause, with its reason and who made it."""

    stored_name = "standingchange"

    list_display = ("at", "counterparty", "step", "change", "reason", "actor")
    list_filter = ("counterparty", "change")


@admin.register(ErrorPolicy)
class ErrorPolicyAdmin(ModelAdmin):  # type: ignore[misc]  # unfold has no types
    """What operators decided about single errors; `ErrorPolicy.clean` refuses an outcome that only
    evidence can give.
    """

    list_display = ("counterparty", "code", "outcome", "attempts_max", "backoff_base_ms", "backoff_cap_ms", "deadline_seconds", "reason")
    list_filter = ("counterparty",)
    fields: ClassVar[tuple[Any, ...]] = (
        ("counterparty", "code"),
        "outcome",
        ("attempts_max", "deadline_seconds"),
        ("backoff_base_ms", "backoff_cap_ms"),
        "reason",
    )

    # Nothing is written here: a second person approves what was typed.

    def has_add_permission(self, request: HttpRequest) -> bool:
        return may(request.user, "clearing.add_errorpolicy")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request.user, "clearing.change_errorpolicy")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may(request.user, "clearing.delete_errorpolicy")

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return {}  # deleting several at once would be one proposal each

    def save_model(self, request: HttpRequest, obj: ErrorPolicy, form: Any, change: bool) -> None:
        request.proposed = propose_change(obj, current())  # type: ignore[attr-defined]

    def delete_model(self, request: HttpRequest, obj: ErrorPolicy) -> None:
        request.proposed = propose_change(obj, current(), delete=True)  # type: ignore[attr-defined]

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> None:
        """The proposal is the record."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> None:
        """The same."""

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None:
        """The same."""

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: Any = None) -> HttpResponse:
        return _to_proposal(request)

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return _to_proposal(request)

    def response_delete(self, request: HttpRequest, obj_display: str, obj_id: int) -> HttpResponse:
        return _to_proposal(request)


def _to_proposal(request: HttpRequest) -> HttpResponse:
    messages.warning(request, "Requested: an error policy needs a second person's approval.")
    return HttpResponseRedirect(reverse("admin:base_proposal_change", args=[request.proposed.pk]))  # type: ignore[attr-defined]
