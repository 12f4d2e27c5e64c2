"""Operator actions on an order in the admin: the list of what is possible, the form that requests
an intervention, and the page where a second operator approves or refuses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from base.clock import ServiceNow
from base.desk import again, rights
from base.desk.journal import note_and_tell, note_look
from base.filters import by_field
from base.readable import amount, text_of
from base.readonly import ReadOnlyAdmin, column
from clearing.admin.forms import RefuseForm, RequestForm, form_for
from clearing.admin.journey import Journey
from clearing.dispatch import publish
from clearing.interventions.case import Case, case_of, read_case
from clearing.interventions.comparison import Consequences
from clearing.interventions.eligibility import VOIDED_BEFORE, possible
from clearing.interventions.evidence import assets_of, described
from clearing.interventions.requests import NO_EVIDENCE, approve, consequences_of, evidence_of, refuse, request_approval, stored_of
from clearing.models import Clearing, Intervention
from clearing.status import InterventionKind, InterventionState, State
from clearing.store.interventions import Busy, NotPossible, Operator, OutsideEvidence, on_its_way_until
from orders.admin import order_id_in
from orders.models import SyncOrder

ASKING, APPROVING = "clearing.add_intervention", "clearing.approve_intervention"
RETRYING = "clearing.change_clearing"
SEARCHED_ORDERS_MAX = 500
SHOWN_MAX = 20  # of one order's, on its page
K = InterventionKind
TITLES = {
    K.RETRY: "Retry",
    K.RELEASE_HOLD: "Release the hold",
    K.CONFIRM_DONE: "Confirm the step as done",
    K.CONFIRM_NOT_DONE: "Confirm that the step did not happen",
    K.VOID: "Void the order",
}
MEANINGS = {
    K.RETRY: "it goes on at once, in its lane's order; a step that may have been applied starts with a status query",
    K.RELEASE_HOLD: "what it is held for may pass as it is, and the order goes on",
    K.CONFIRM_DONE: "the counterparty's staff confirm that it was done: the order goes on with the next step",
    K.CONFIRM_NOT_DONE: "and never will be: only then may it be sent under a new key, or the order be voided",
    K.VOID: "it is closed for good; what was done already has to be booked back by hand",
}
VOIDED_BEFORE_NOTICE = (
    "It was voided in the time that the restore has forgotten, and its bookings were made by hand then. Void it again: nothing is booked twice."
    " Only if it was never voided, release the hold."
)
VARIANTS = {"requested": "warning", "executed": "success", "refused": "danger", "failed": "danger", "expired": ""}  # colours of a label


@dataclass(frozen=True, slots=True)
class Choice:
    """An operator action as the page offers it."""

    title: str
    meaning: str
    url: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """What operators may do to an order, and what they have done to it."""

    choices: Sequence[Choice]
    interventions: Sequence[tuple[Intervention, str]]  # newest first, each with the colour of its state
    notice: str = ""  # what to do, where the choices don't say it


def read_resolution(request: HttpRequest, clearing: Clearing, journey: Journey) -> Resolution:
    """One query, of a restored order two: the rest is read from what the page shows anyway."""
    operations = [shown.operation for shown in journey.operations]
    kinds = possible(case_of(clearing, operations).situation) if operations else []
    choices = [Choice(TITLES[kind], MEANINGS[kind], action_url(clearing, kind)) for kind in kinds if may_request(request, kind)]
    shown = [(intervention, VARIANTS[intervention.state]) for intervention in clearing.interventions.order_by("-pk")[:SHOWN_MAX]]
    return Resolution(choices, shown, _notice(clearing))


def _notice(clearing: Clearing) -> str:
    return VOIDED_BEFORE_NOTICE if clearing.hold_code == VOIDED_BEFORE and clearing.state == State.PARKED else ""


def may_request(request: HttpRequest, kind: InterventionKind) -> bool:
    """Whether the user may do it (a retry) or request it."""
    return rights.may(request.user, RETRYING if kind == K.RETRY else ASKING)


def action_url(clearing: Clearing, kind: InterventionKind) -> str:
    """Where it is done or requested."""
    if kind == K.RETRY:
        return f"{reverse('admin:clearing_clearing_retry')}?ids={clearing.pk}"
    return reverse("admin:clearing_clearing_ask", args=[clearing.pk, kind.value])


def operator_of(request: HttpRequest) -> Operator:
    """The signed-in user."""
    user: Any = request.user
    return Operator(user.get_username(), user.pk)


# --- requesting -----------------------------------------------------------------------------------


def request_page(request: HttpRequest, model_admin: admin.ModelAdmin[Clearing], pk: int, kind_name: str) -> HttpResponse:
    """GET says what it would do and asks for reason and evidence; POST requests a second operator's
    approval.
    """
    kind = _kind(kind_name)
    if not may_request(request, kind):
        raise PermissionDenied
    clearing = get_object_or_404(Clearing.objects.select_related("order"), pk=pk)
    case = read_case(clearing)
    operation = case.operation
    form = form_for(kind, operation, request.POST if request.method == "POST" else None)
    consequences, obstacle = _foreseen(case, kind)
    compared = None
    if request.method == "POST" and form.is_valid() and not obstacle:
        compared = _compared(case, kind, form)
        is_read = kind != K.CONFIRM_DONE or (compared is not None and compared.seal == request.POST.get("seal"))
        requested = _request(request, clearing, kind, form) if is_read else None
        if requested is not None:
            return HttpResponseRedirect(reverse("admin:clearing_intervention_change", args=[requested]))
    context = {
        **model_admin.admin_site.each_context(request),
        "title": TITLES[kind],
        "opts": Clearing._meta,  # noqa: SLF001 as admin's own templates want it
        "form": form,
        "clearing": clearing,
        "operation": operation,
        "requested": described(stored_of(operation)) if kind in {K.CONFIRM_DONE, K.CONFIRM_NOT_DONE} else "",
        "meaning": MEANINGS[kind],
        "consequences": compared or consequences,
        "compares": kind == K.CONFIRM_DONE,
        "seal": compared.seal if compared else "",
        "obstacle": obstacle,
        "back": reverse("admin:clearing_clearing_change", args=[clearing.pk]),
    }
    return TemplateResponse(request, "clearing/request_intervention.html", context)


def _kind(name: str) -> InterventionKind:
    if name not in K.values or name == K.RETRY:
        raise Http404
    return K(name)


def _foreseen(case: Case, kind: InterventionKind, evidence: OutsideEvidence = NO_EVIDENCE) -> tuple[Consequences | None, str]:
    """What it would do, or why it isn't possible. What a confirmation would do isn't known without
    its evidence.
    """
    try:
        return consequences_of(case, kind, evidence), ""
    except NotPossible as refusal:
        return None, "" if refusal.code == "evidence" else str(refusal)


def _compared(case: Case, kind: InterventionKind, form: RequestForm) -> Consequences | None:
    """What it would do with the evidence that was entered. None: it isn't possible so, and the form
    says why.
    """
    try:
        return consequences_of(case, kind, form.evidence())
    except NotPossible as refusal:
        form.add_error(None, str(refusal))
        return None


def _request(request: HttpRequest, clearing: Clearing, kind: InterventionKind, form: RequestForm) -> int | None:
    """The request and its line in the audit log are one transaction. None: it isn't possible, and
    the form says why.
    """
    reason = form.cleaned_data["reason"]
    publish.generation()  # read before the transaction, which only uses what is known
    try:
        with transaction.atomic():
            pk = request_approval(clearing.pk, kind, operator=operator_of(request), reason=reason, evidence=form.evidence())
            _log(request, clearing, f"Requested: {TITLES[kind]}: {reason}")
    except NotPossible as refusal:
        form.add_error(None, str(refusal))
        return None
    messages.success(request, "Intervention requested. A second operator has to approve it.")
    return pk


def _log(request: HttpRequest, clearing: Clearing, message: str) -> None:
    user: Any = request.user
    LogEntry.objects.log_actions(user.pk, [clearing], CHANGE, change_message=message)


# --- approving ------------------------------------------------------------------------------------


@admin.register(Intervention)
class InterventionAdmin(ReadOnlyAdmin):
    """Every intervention that was requested, newest first."""

    list_display = ("order_shown", "kind_shown", "state_label", "asked_by", "asked_at", "reason", "decided_by")
    list_filter = (by_field("state", "state", InterventionState.choices), by_field("kind", "kind", InterventionKind.choices))
    search_fields = ("clearing__order__order_id", "asked_by")
    search_help_text = "Order id (or its beginning), or the whole name of the operator who requested it"
    list_select_related = ("clearing__order",)
    change_form_outer_after_template = "clearing/intervention.html"
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("kind_shown", "state_shown"),
                    ("order_link", "reason"),
                    ("asked_by", "asked_at"),
                    ("expires_at", "reference"),
                    ("amount_shown", "bought_shown", "min_lot_shown"),
                    "evidence",
                    ("decided_by", "decided_at"),
                    "outcome",
                )
            },
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Intervention]:
        return Intervention.objects.select_related("clearing__order", "operation").annotate(now=ServiceNow())

    def find(self, rows: QuerySet[Intervention], term: str) -> QuerySet[Intervention]:
        meant = SyncOrder.objects.filter(order_id__startswith=order_id_in(term)).values_list("pk", flat=True)
        return rows.filter(Q(clearing__order__in=list(meant[:SEARCHED_ORDERS_MAX])) | Q(asked_by=term))

    @column("order", ordering="pk")
    def order_shown(self, intervention: Intervention) -> str:
        return intervention.clearing.order.order_id

    @column("order")
    def order_link(self, intervention: Intervention) -> SafeString:
        url = reverse("admin:clearing_clearing_change", args=[intervention.clearing_id])
        return format_html('<a class="underline" href="{}">{}</a>', url, intervention.clearing.order.order_id)

    @column("what")
    def kind_shown(self, intervention: Intervention) -> str:
        return TITLES[K(intervention.kind)]

    @column("state", label=VARIANTS)
    def state_label(self, intervention: Intervention) -> str:
        return intervention.state

    @column("state")
    def state_shown(self, intervention: Intervention) -> str:
        return render_to_string("unfold/helpers/label.html", {"text": intervention.state, "variant": VARIANTS[intervention.state]})

    @column("evidence")
    def evidence(self, intervention: Intervention) -> str:
        return intervention.document

    @column("amount")
    def amount_shown(self, intervention: Intervention) -> str:
        return _in_units(intervention, intervention.amount)

    @column("bought")
    def bought_shown(self, intervention: Intervention) -> str:
        return _in_units(intervention, intervention.bought, of_bought=True)

    @column("minimum lot")
    def min_lot_shown(self, intervention: Intervention) -> str:
        return _in_units(intervention, intervention.min_lot)

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None) -> HttpResponse:
        intervention = self.get_object(request, object_id)
        if intervention and request.method == "GET":
            note_look("intervention", intervention.clearing.order.order_id)
        context = {"title": str(intervention), **_decision(request, intervention)} if intervention else {}
        answer: HttpResponse = super().change_view(request, object_id, form_url, {**context, **(extra_context or {})})
        return answer

    def get_urls(self) -> list[Any]:
        decide = path("<int:pk>/decide/", self.admin_site.admin_view(self.decide_view), name="clearing_intervention_decide")
        return [decide, *super().get_urls()]

    def decide_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """POST approves or refuses, and goes back to the intervention's page."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        intervention = get_object_or_404(self.get_queryset(request), pk=pk)
        if request.POST.get("decision") == "approve":
            _approve(request, intervention)
        else:
            _refuse(request, intervention)
        return HttpResponseRedirect(reverse("admin:clearing_intervention_change", args=[pk]))


def _in_units(intervention: Intervention, value: Decimal | None, *, of_bought: bool = False) -> str:
    """With the asset of the operation's request."""
    if value is None:
        return amount(value)
    sold, bought = assets_of(stored_of(intervention.operation))
    return f"{amount(value)} {bought if of_bought else sold}"


def _is_own(request: HttpRequest, intervention: Intervention) -> bool:
    operator = operator_of(request)
    return intervention.asked_by == operator.name or intervention.asked_by_id == operator.id


def _decision(request: HttpRequest, intervention: Intervention) -> dict[str, Any]:
    """What the page shows below the fields: what the intervention will do, and who may decide."""
    context: dict[str, Any] = {"intervention": intervention, "evidence_request": text_of(intervention.operation.request)}
    if intervention.state != InterventionState.REQUESTED:
        return context
    own = _is_own(request, intervention)
    why_not = "" if own else rights.why_not_approve(request.user.pk)[1]
    clearing = intervention.clearing
    consequences, obstacle = _foreseen(read_case(clearing), K(intervention.kind), evidence_of(intervention))
    until = None if intervention.kind == K.RELEASE_HOLD else on_its_way_until(intervention.clearing_id)
    now = intervention.now  # type: ignore[attr-defined]  # annotated
    return {
        **context,
        "consequences": consequences,
        "obstacle": obstacle,
        "waits_until": until if until and until > now else None,
        "may_approve": not own and not why_not,
        "why_not": why_not,
        "both_until": rights.both_until(request.user.pk),
        **again.shown(request),
        "may_refuse": rights.may(request.user, APPROVING) or own,
        "own": own,
        "form": RefuseForm(),
        "decide_url": reverse("admin:clearing_intervention_decide", args=[intervention.pk]),
    }


def _approve(request: HttpRequest, intervention: Intervention) -> None:
    """The execution and its line in the audit log are one transaction, also where it fails; the
    publish comes after it.
    """
    if not rights.may(request.user, APPROVING):
        _note_refusal(intervention, "same_person" if _is_own(request, intervention) else "not_approver")
        raise PermissionDenied
    problem = again.refusal(request)
    if problem:
        messages.error(request, f"Not approved: {problem}.")
        return
    publish.generation()  # read before the transaction, which only uses what is known
    try:
        with transaction.atomic():
            text, level = _approved(request, intervention)
    except Busy as busy:
        text, level = f"Not approved: {busy}. The intervention still waits.", messages.WARNING
    messages.add_message(request, level, text)


def _approved(request: HttpRequest, intervention: Intervention) -> tuple[str, int]:
    """The message for the approver, and its level. Raises Busy: the intervention still waits."""
    try:
        outcome = approve(intervention.pk, operator=operator_of(request))
    except Busy:
        raise
    except NotPossible as refusal:
        _note_refusal(intervention, refusal.code)
        return f"Not executed: {refusal}.", messages.ERROR
    _log(request, intervention.clearing, f"Approved: {TITLES[K(intervention.kind)]}, requested by {intervention.asked_by}: {outcome}")
    return f"Intervention executed: {outcome}.", messages.SUCCESS


def _note_refusal(intervention: Intervention, code: str) -> None:
    order_id = intervention.clearing.order.order_id
    note_and_tell("approval_refused", "an approval was refused", order_id=order_id, intervention=intervention.pk, refused=code)


def _refuse(request: HttpRequest, intervention: Intervention) -> None:
    if not (rights.may(request.user, APPROVING) or (_is_own(request, intervention) and may_request(request, K(intervention.kind)))):
        raise PermissionDenied
    form = RefuseForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Not refused: give a reason of 5 to 200 characters.")
        return
    reason = form.cleaned_data["reason"]
    try:
        with transaction.atomic():
            refuse(intervention.pk, operator=operator_of(request), reason=reason)
            _log(request, intervention.clearing, f"Refused: {TITLES[K(intervention.kind)]}, requested by {intervention.asked_by}: {reason}")
    except NotPossible as refusal:
        messages.error(request, f"Not refused: {refusal}.")
    else:
        word = "withdrawn" if _is_own(request, intervention) else "refused"
        messages.info(request, f"Intervention {word}. The order is unchanged.")
