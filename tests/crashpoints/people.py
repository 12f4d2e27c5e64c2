"""What people do, as the admin does it for them: a retry, and the interventions that a second
operator approves. Who comes back later finds what was done, and does the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import ROUND_DOWN, Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import msgspec
from django.contrib.auth.models import User
from django.db import transaction

from clearing import opening
from clearing.admin import counterparties
from clearing.admin import retry as admin_retry
from clearing.interventions import requests
from clearing.interventions.case import load
from clearing.models import Clearing, Intervention
from clearing.status import InterventionKind, InterventionState, State
from clearing.store.interventions import Operator, OutsideEvidence
from ops.admin import quarantine
from orders.backfill.replay import waiting_in_quarantine
from orders.intake.first_start import current_rules
from tests.crashpoints import service
from tests.crashpoints.points import Event
from tests.crashpoints.process import Process

ANN, BEN = Operator("ann", 1), Operator("ben", 2)
REASON: Final = "the fund's people said so by phone"
BY_PHONE: Final = OutsideEvidence(reference="phone-17", document="call of 10:32 with Ms. Wu, recorded as 4711")
PRICE: Final = Decimal(60_000)  # at which the trading service's books have a coin
LATER_SECONDS: Final = 120  # beyond any request that may be on its way


def retry(process: Process, order_id: str = "A1", states: Sequence[State] = (State.PARKED, State.RETRYING)) -> None:
    """Somebody presses "Retry" for an order that is parked or retrying."""
    request = _request(process)
    with process.doors.paused():
        found = list(Clearing.objects.select_related("order").filter(order__order_id=order_id, state__in=states))
    admin_retry._retry_all(request, found, "the account has its money now")


def _request(process: Process) -> Any:
    with process.doors.paused():
        ann, _ = User.objects.get_or_create(username="ann")
    return SimpleNamespace(user=ann, _messages=SimpleNamespace(add=lambda *_: None))


def replay_quarantine(process: Process) -> None:
    """Somebody replays whatever waits in quarantine, on its page."""
    request = _request(process)
    for row in waiting_in_quarantine():
        quarantine._replay(request, row, current_rules())


def pause_and_resume(process: Process, counterparty: str = "fund", step: int = 2) -> None:
    """Somebody pauses a step; an order comes to it; somebody lets it go on. Who comes back later
    finds it paused, or not, and resumes it.
    """
    request = _request(process)
    counterparties._switch(request, counterparty, step, "their release is rolled back", pausing=True)
    service.work_one(process)
    resume(process, counterparty, step)


def resume(process: Process, counterparty: str = "fund", step: int = 2) -> None:
    """Somebody lets a step go on; that it does already is fine."""
    counterparties._switch(_request(process), counterparty, step, "they are back", pausing=False)


def hold(_: Process) -> None:
    """A1 changed at the counter."""
    with transaction.atomic():
        opening.hold("A1", "contents_differ")


def hold_while_it_runs(process: Process, calls: int) -> None:
    """A worker runs A1, which changes at the counter while the nth call is in flight: another
    process sets the hold.
    """
    left = iter(range(calls - 1))

    def change(event: Event) -> None:
        if event.label.startswith("call") and next(left, None) is None:
            with process.doors.paused():
                hold(process)

    process.doors.listeners.append(change)
    service.work_one(process)


def ask_for(kind: InterventionKind) -> Callable[[Process], None]:
    """One asks for it, as a body; nobody approves."""
    return partial(_ask_alone, kind=kind)


def _ask_alone(_: Process, *, kind: InterventionKind) -> None:
    _asked(Clearing.objects.get(order__order_id="A1"), kind)


def intervention(kind: InterventionKind, *, then_retry: bool = False) -> Callable[[Process], None]:
    """One asks and another approves, as a body; `then_retry` lets the order go on after it."""
    return partial(_intervene, kind=kind, then_retry=then_retry)


def _intervene(process: Process, *, kind: InterventionKind, then_retry: bool) -> None:
    with process.doors.paused():
        clearing = Clearing.objects.get(order__order_id="A1")
        executed = Intervention.objects.filter(clearing=clearing, state=InterventionState.EXECUTED).exists()
        waiting = Intervention.objects.filter(clearing=clearing, state=InterventionState.REQUESTED).values_list("pk", flat=True).first()
    if not executed:
        pk = waiting or _asked(clearing, kind)
        process.advance(LATER_SECONDS)
        with transaction.atomic():
            requests.approve(pk, operator=BEN)
    if then_retry:
        retry(process)


def _asked(clearing: Clearing, kind: InterventionKind) -> int:
    with transaction.atomic():
        evidence = _by_phone(clearing) if kind == InterventionKind.CONFIRM_DONE else BY_PHONE
        return requests.request_approval(clearing.pk, kind, operator=ANN, reason=REASON, evidence=evidence)


def _by_phone(clearing: Clearing) -> OutsideEvidence:
    """What the counterparty's people say of the current operation: all of it was done."""
    request = msgspec.json.decode(bytes(load(clearing.pk).operation.request))
    if "sell_amount" not in request:
        return replace(BY_PHONE, amount=Decimal(request["amount"]))
    sold = Decimal(request["sell_amount"])
    return replace(BY_PHONE, amount=sold, bought=(sold / PRICE).quantize(Decimal("1e-8"), rounding=ROUND_DOWN))
