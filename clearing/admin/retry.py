"""The page between pressing "Retry" and retrying: what would be retried, what would be refused, and
the reason, which is kept with the change and in the audit log.
"""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.widgets import UnfoldBooleanWidget

from base.desk.actor import current
from base.desk.rights import may
from base.parameters import ids_in
from clearing.admin.bulk_retry import needs_second_person, propose_retries, require_alone
from clearing.admin.forms import reason_field
from clearing.dispatch import publish
from clearing.flow.flows import SLIPPAGE_EXCEEDED
from clearing.interventions.case import Case, read_cases
from clearing.interventions.comparison import fill_text
from clearing.interventions.eligibility import obstacle, query_obstacle
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing
from clearing.status import InterventionKind
from clearing.store.interventions import NotPossible

RETRIED_AT_ONCE_MAX = 200
PERMISSION = "clearing.change_clearing"  # the only changes that the admin makes to a clearing are operator actions


def may_retry(request: HttpRequest) -> bool:
    """Whether the user may intervene in clearings."""
    return may(request.user, PERMISSION)


def is_offered(case: Case) -> bool:
    """Whether the order can be retried, or its next key queried."""
    return not obstacle(InterventionKind.RETRY, case.situation) or not query_obstacle(case.situation)


class RetryForm(forms.Form):
    """The reason; for orders from before a restore, whether to query only.

    The field's name, `only_ask`, is what the release before sends and reads: a form that one
    release has shown may be answered by the other.
    """

    reason = reason_field("Kept with the status change and in the audit log: what was wrong, and why may it run again?")
    only_ask = forms.BooleanField(
        required=False,
        widget=UnfoldBooleanWidget(),
        label="Status query only",
        help_text=(
            "After a restore: the next key is queried and nothing is sent. What was done under it is found; otherwise the order parks again, on hold."
        ),
    )


def retry_page(request: HttpRequest, model_admin: admin.ModelAdmin[Clearing]) -> HttpResponse:
    """GET shows what was chosen and asks for the reason; POST retries and goes back to the list."""
    if not may_retry(request):
        raise PermissionDenied
    chosen = _chosen(request.POST.get("ids") or request.GET.get("ids") or "")
    form = RetryForm(request.POST or None)
    alone = not needs_second_person(request.user, len(chosen))
    if request.method == "POST" and form.is_valid():
        if not alone:
            proposal = propose_retries(chosen, form.cleaned_data["reason"], current(), query_only=form.cleaned_data["only_ask"])
            messages.warning(request, "Requested: so many retries need a second person's approval.")
            return HttpResponseRedirect(reverse("admin:base_proposal_change", args=[proposal.pk]))
        _retry_all(request, chosen, form.cleaned_data["reason"], query_only=form.cleaned_data["only_ask"])
        return HttpResponseRedirect(_back(chosen))
    cases = read_cases(chosen)
    context = {
        **model_admin.admin_site.each_context(request),
        "title": "Retry",
        "opts": Clearing._meta,  # noqa: SLF001 as admin's own templates want it
        "form": form,
        "alone": alone,
        "chosen": chosen,
        "restored": any(clearing.restored for clearing in chosen),
        "refused": [(case.clearing, reason) for case in cases if (reason := _obstacle(case))],
        "fills": [(case.clearing, fill_text(case.order, case.exchanges)) for case in cases if case.clearing.error_code == SLIPPAGE_EXCEEDED],
        "ids": ",".join(str(clearing.pk) for clearing in chosen),
        "back": _back(chosen),
    }
    return TemplateResponse(request, "clearing/retry.html", context)


def _chosen(ids: str) -> list[Clearing]:
    return list(Clearing.objects.select_related("order").filter(pk__in=ids_in(ids, limit=RETRIED_AT_ONCE_MAX)).order_by("pk"))


def _obstacle(case: Case) -> str:
    """Why a retry of it will be refused; empty where it won't be."""
    refusal = obstacle(InterventionKind.RETRY, case.situation)
    return refusal[1] if refusal else ""


def _back(chosen: Sequence[Clearing]) -> str:
    if len(chosen) == 1:
        return reverse("admin:clearing_clearing_change", args=[chosen[0].pk])
    return reverse("admin:clearing_clearing_changelist")


def _retry_all(request: HttpRequest, chosen: Sequence[Clearing], reason: str, *, query_only: bool = False) -> None:
    publish.generation()  # read before the transactions, which only use what is known
    retried = []
    for clearing in chosen:
        try:
            _retry(request, clearing, reason, query_only=query_only)
        except NotPossible as refusal:
            messages.error(request, f"Not retried: {clearing.order.order_id}: {refusal}.")
        else:
            retried.append(clearing.order.order_id)
    if retried:
        level = messages.SUCCESS if len(retried) == len(chosen) else messages.WARNING
        messages.add_message(request, level, f"Retried {len(retried)} of {len(chosen)}: {', '.join(retried[:5])}{' …' if len(retried) > 5 else ''}")  # noqa: PLR2004


def _retry(request: HttpRequest, clearing: Clearing, reason: str, *, query_only: bool) -> None:
    """The change and its line in the audit log are one transaction; the publish comes after it."""
    user: Any = request.user
    with transaction.atomic():
        require_alone(user)
        retry_by_hand(clearing.pk, actor=user.get_username(), actor_id=user.pk, reason=reason, query_only=query_only)
        LogEntry.objects.log_actions(user.pk, [clearing], CHANGE, change_message=f"{'Status query only' if query_only else 'Retry'}: {reason}")
