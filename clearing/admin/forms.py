"""The forms of the ways out: why, the evidence, and what a confirmation has to say of what was
done.
"""

from typing import Any

import msgspec
from django import forms
from unfold.widgets import UnfoldAdminDecimalFieldWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from clearing.gateways import Action, Exchange, Transfer
from clearing.models import Operation
from clearing.status import InterventionKind
from clearing.store.interventions import OutsideEvidence

K = InterventionKind


def reason_field(help_text: str) -> forms.CharField:
    """Why, in a person's words; the first that is asked for."""
    widget = UnfoldAdminTextInputWidget(attrs={"autofocus": True})
    return forms.CharField(min_length=5, max_length=200, widget=widget, help_text=help_text)


class AskForm(forms.Form):
    """Why, and where the evidence lies."""

    reason = reason_field("Kept with the status change and in the audit log.")
    document = forms.CharField(
        max_length=2_000,
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        label="Evidence",
        help_text="Who said it, when, and where it is written: an address, a ticket, the words themselves.",
    )

    def evidence(self) -> OutsideEvidence:
        """What the form brings forward."""
        given = self.cleaned_data
        return OutsideEvidence(
            given.get("reference") or "", given.get("amount"), given.get("bought"), given.get("min_lot"), (given.get("document") or "").strip()
        )


class EvidentForm(AskForm):
    """With evidence that can't be left out."""

    field_order = ("reference", "reason", "document")
    reference = forms.CharField(
        max_length=200, required=False, widget=UnfoldAdminTextInputWidget(), help_text="The counterparty's own, of what it did or refused."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["document"].required = True


def _decimal(label: str, **options: Any) -> forms.DecimalField:
    widget = UnfoldAdminDecimalFieldWidget(attrs={"step": "any"})
    return forms.DecimalField(label=label, min_value=0, max_digits=36, decimal_places=18, widget=widget, **options)


def form_for(kind: InterventionKind, operation: Operation, data: Any = None) -> AskForm:
    """The form of a way out; a confirmation asks for what the operation's kind of answer has."""
    if kind not in {K.CONFIRM_DONE, K.CONFIRM_NOT_DONE}:
        return AskForm(data)
    form = EvidentForm(data)
    if kind == K.CONFIRM_DONE:
        form.fields["reference"].required = True
        form.fields.update(_amounts(operation))
        form.order_fields(("reference", "amount", "bought", "min_lot", "reason", "document"))
    return form


def _amounts(operation: Operation) -> dict[str, forms.Field]:
    if operation.action == Action.TRANSFER:
        transfer = msgspec.json.decode(bytes(operation.request), type=Transfer)
        return {"amount": _decimal(f"{transfer.asset} transferred")}
    if operation.action == Action.EXCHANGE:
        exchange = msgspec.json.decode(bytes(operation.request), type=Exchange)
        lot = _decimal(f"Minimum lot, {exchange.sell_asset}", required=False, help_text="The market's; only if not all was sold.")
        return {"amount": _decimal(f"{exchange.sell_asset} sold"), "bought": _decimal(f"{exchange.buy_asset} bought"), "min_lot": lot}
    return {}


class RefuseForm(forms.Form):
    """Why it is refused or withdrawn."""

    reason = forms.CharField(min_length=5, max_length=200, label="Why not", widget=UnfoldAdminTextInputWidget())
