"""The forms of interventions: the reason, the evidence, and the amounts that a confirmation has to
state.
"""

from decimal import Decimal
from typing import Any

import msgspec
from django import forms
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from base.readable import amount
from clearing.gateways import Action, Exchange, Transfer
from clearing.interventions.typed import Unclear, read_amount
from clearing.models import Operation
from clearing.status import InterventionKind
from clearing.store.interventions import OutsideEvidence

K = InterventionKind


def reason_field(help_text: str) -> forms.CharField:
    """The reason in the operator's words; it has the focus."""
    widget = UnfoldAdminTextInputWidget(attrs={"autofocus": True})
    return forms.CharField(min_length=5, max_length=200, widget=widget, help_text=help_text)


class RequestForm(forms.Form):
    """The reason, and where the evidence is."""

    reason = reason_field("Kept with the status change and in the audit log.")
    document = forms.CharField(
        max_length=2_000,
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        label="Evidence",
        help_text="Who confirmed it, when, and where it is recorded: an address, a ticket, or the words themselves.",
    )

    def evidence(self) -> OutsideEvidence:
        """The evidence that was entered."""
        given = self.cleaned_data
        return OutsideEvidence(
            given.get("reference") or "", given.get("amount"), given.get("bought"), given.get("min_lot"), (given.get("document") or "").strip()
        )


class EvidenceForm(RequestForm):
    """With evidence that is required."""

    field_order = ("reference", "reason", "document")
    reference = forms.CharField(
        max_length=200, required=False, widget=UnfoldAdminTextInputWidget(), help_text="The counterparty's own reference for what it did or refused."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["document"].required = True


class AmountField(forms.CharField):
    """An amount of an asset, typed as text: a number field of the browser drops commas and counts
    with the mouse wheel.
    """

    def __init__(self, asset: str, what: str, *, asked: Decimal | None = None, required: bool = True, note: str = "") -> None:
        asks = f"Asked for: {amount(asked)} {asset}. " if asked is not None else ""
        widget = UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal", "autocomplete": "off", "spellcheck": "false"})
        help_text = asks + (note or f"In {asset}, as they said it.")
        super().__init__(label=f"{what}, {asset}", required=required, widget=widget, help_text=help_text)
        self.asset = asset

    def to_python(self, value: Any) -> Any:
        text = super().to_python(value)
        if not text:
            return None
        try:
            return read_amount(text, self.asset)
        except Unclear as unclear:
            raise forms.ValidationError(str(unclear)) from unclear

    def run_validators(self, value: Any) -> None:
        """None: those of a text would measure the amount."""


def form_for(kind: InterventionKind, operation: Operation, data: Any = None) -> RequestForm:
    """The form of an intervention; a confirmation asks for the fields that the operation's answer
    has.
    """
    if kind not in {K.CONFIRM_DONE, K.CONFIRM_NOT_DONE}:
        return RequestForm(data)
    form = EvidenceForm(data)
    if kind == K.CONFIRM_DONE:
        form.fields["reference"].required = True
        form.fields.update(_amounts(operation))
        form.order_fields(("reference", "amount", "bought", "min_lot", "reason", "document"))
    return form


def _amounts(operation: Operation) -> dict[str, forms.Field]:
    if operation.action == Action.TRANSFER:
        transfer = msgspec.json.decode(bytes(operation.request), type=Transfer)
        return {"amount": AmountField(transfer.asset, "Transferred", asked=transfer.amount)}
    if operation.action == Action.EXCHANGE:
        exchange = msgspec.json.decode(bytes(operation.request), type=Exchange)
        return {
            "amount": AmountField(exchange.sell_asset, "Sold", asked=exchange.sell_amount),
            "bought": AmountField(exchange.buy_asset, "Bought"),
            "min_lot": AmountField(exchange.sell_asset, "Minimum lot", required=False, note="The market's; only where not all was sold."),
        }
    return {}


class RefuseForm(forms.Form):
    """The reason for refusing or withdrawing."""

    reason = forms.CharField(min_length=5, max_length=200, label="Reason", widget=UnfoldAdminTextInputWidget())
