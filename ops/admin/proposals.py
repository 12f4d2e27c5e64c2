"""What waits for a second person: grants, error policies, retries of many orders. And the record of
what people did at the desk.
"""

from collections.abc import Callable
from typing import Any, Final

import structlog
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse

from base.desk import again, proposals
from base.desk.actor import Actor, current
from base.desk.journal import note_and_tell
from base.desk.proposals import NotDecided
from base.models import DeskEvent, Grant, Proposal
from base.readonly import ReadOnlyAdmin, column
from clearing.admin import bulk_retry, policy_changes
from clearing.admin.forms import RefuseForm

log = structlog.get_logger(__name__)
EXECUTES: Final[dict[str, Callable[[Proposal, Actor], str]]] = {
    Proposal.Kind.GRANT: proposals.execute_grant,
    Proposal.Kind.ERROR_POLICY: policy_changes.execute,
}
VARIANTS: Final = {"requested": "warning", "executed": "success", "refused": "danger", "expired": ""}


@admin.register(Proposal)
class ProposalAdmin(ReadOnlyAdmin):
    """Every proposal, newest first."""

    list_display = ("summary", "kind", "state_label", "asked_by", "asked_at", "decided_by")
    list_filter = ("state", "kind")
    search_fields = ("asked_by",)
    search_help_text = "The whole name of who requested or decided it"
    change_form_outer_after_template = "ops/proposal.html"
    fieldsets = (
        (None, {"fields": (("summary", "kind", "state"), ("asked_by", "asked_at", "expires_at"), "reason", ("decided_by", "decided_at"), "outcome")}),
        ("Exactly", {"fields": ("contents",)}),
    )

    def find(self, rows: QuerySet[Proposal], term: str) -> QuerySet[Proposal]:
        return rows.filter(Q(asked_by=term) | Q(decided_by=term))

    @column("state", label=VARIANTS)
    def state_label(self, proposal: Proposal) -> str:
        return proposal.state

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        proposal = self.get_object(request, object_id)
        context: dict[str, Any] = {"title": str(proposal)} if proposal else {}
        if proposal and proposal.state == Proposal.State.REQUESTED:
            context |= {
                "decide_url": reverse("admin:base_proposal_decide", args=[proposal.pk]),
                "form": RefuseForm(),
                "own": proposal.asked_by_id == request.user.pk,
                **again.shown(request),
            }
        answer: HttpResponse = super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})
        return answer

    def get_urls(self) -> list[Any]:
        decide = path("<int:pk>/decide/", self.admin_site.admin_view(self.decide_view), name="base_proposal_decide")
        return [decide, *super().get_urls()]

    def decide_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST approves or refuses, and goes back to the proposal's page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_view_permission(request):
            raise PermissionDenied
        proposal = get_object_or_404(Proposal, pk=pk)
        if request.POST.get("decision") == "approve":
            _approve(request, proposal)
        else:
            _refuse(request, proposal)
        return HttpResponseRedirect(reverse("admin:base_proposal_change", args=[pk]))


def _approve(request: HttpRequest, proposal: Proposal) -> None:
    problem = again.refusal(request)
    if problem:
        messages.error(request, f"Not approved: {problem}.")
        return
    person = current()
    try:
        with transaction.atomic():
            proposals.decide(proposal, approve=True, person=person)
            execute = EXECUTES.get(proposal.kind)
            if execute is not None:
                Proposal.objects.filter(pk=proposal.pk).update(outcome=execute(proposal, person))
    except NotDecided as refusal:
        proposals.expire()
        note_and_tell("approval_refused", "an approval was refused", proposal=proposal.pk, refused=refusal.code)
        messages.error(request, f"Not approved: {refusal}.")
        return
    if proposal.kind == Proposal.Kind.BULK_RETRY:  # each order in a transaction of its own
        outcome = bulk_retry.execute(proposal, person)
        Proposal.objects.filter(pk=proposal.pk).update(outcome=outcome)
    messages.success(request, "Approved and executed.")


def _refuse(request: HttpRequest, proposal: Proposal) -> None:
    form = RefuseForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Not refused: give a reason of 5 to 200 characters.")
        return
    try:
        with transaction.atomic():
            proposals.decide(proposal, approve=False, person=current(), reason=form.cleaned_data["reason"])
    except NotDecided as refusal:
        proposals.expire()
        messages.error(request, f"Not refused: {refusal}.")
    else:
        messages.info(request, "Refused. Nothing was changed.")


@admin.register(Grant)
class GrantAdmin(ReadOnlyAdmin):
    """Who holds a role that approves or administers, since when, and who gave it."""

    list_display = ("username", "role", "source", "granted_by", "confirmed_by", "since", "ended_at")
    list_filter = ("role", "source")
    search_fields = ("username",)
    search_help_text = "A whole user name"

    def find(self, rows: QuerySet[Grant], term: str) -> QuerySet[Grant]:
        return rows.filter(username=term)


@admin.register(DeskEvent)
class DeskEventAdmin(ReadOnlyAdmin):
    """Who came in, who was turned away, who looked at which order, who changed whose rights."""

    list_display = ("at", "kind", "username", "address", "order_id", "detail")
    search_fields = ("username",)
    search_help_text = "A whole user name, or a whole order id"

    def find(self, rows: QuerySet[DeskEvent], term: str) -> QuerySet[DeskEvent]:
        return rows.filter(Q(username=term) | Q(order_id=term))
