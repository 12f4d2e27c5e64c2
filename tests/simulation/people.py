"""What people do: they retry what is parked, pause counterparties, and what could cost money one
asks for and another approves.

They know the counterparties' books, by phone. What they confirm is true when it is approved: what
comes after that is ours to prevent.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any, Final

from django.db import OperationalError, transaction

from clearing.flow.flows import dues
from clearing.gateways import counterparty_state
from clearing.interventions import requests
from clearing.interventions.case import load
from clearing.interventions.eligibility import UNSURE
from clearing.interventions.requests import retry_by_hand
from clearing.models import Clearing, Intervention, Operation
from clearing.policy.outcomes import KEY_EXPIRED, KEY_REUSED
from clearing.status import InterventionKind, InterventionState, State
from clearing.store.interventions import NotPossible, Operator, OutsideEvidence
from tests.simulation.counterparties import Counterparties
from tests.simulation.doors import Doors
from tests.simulation.scheduler import Scheduler

ANN, BEN = Operator("ann", 1), Operator("ben", 2)
ASKS_SECONDS: Final = (2.0, 6.0)
APPROVES_SECONDS: Final = (3.0, 9.0)
BY_PHONE: Final = 0.3  # of parked orders whose outcome isn't known: people find it out instead of trying again
IMPATIENT: Final = 0.02  # of looks at an order that waits for an approval: it is retried meanwhile
CURIOUS: Final = 0.2  # of looks: one that isn't parked is looked into, too


@dataclass
class People:
    """Ann, Ben and the operator; what came of what they did, by kind."""

    scheduler: Scheduler
    doors: Doors
    random: Random
    books: Counterparties
    done: Counter[str] = field(default_factory=Counter)

    def ask(self) -> None:
        """Ann looks at what is parked, for ever."""
        while True:
            self.scheduler.pause(self.random.uniform(*ASKS_SECONDS), "ann looks")
            self.doors.set_clock()
            waits = set(Intervention.objects.filter(state=InterventionState.REQUESTED).values_list("clearing_id", flat=True))
            for pk in Clearing.objects.filter(state=State.PARKED).order_by("pk").values_list("pk", flat=True):
                if pk not in waits or self.random.random() < IMPATIENT:
                    self._try(partial(self._help, pk, impatient=pk in waits))
            unsure = Clearing.objects.filter(state__in=[State.PENDING, State.UNKNOWN]).order_by("pk").values_list("pk", flat=True).first()
            if unsure is not None and self.random.random() < CURIOUS:
                self._try(partial(self._settle_unsure, unsure))

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except NotPossible as answer:
            self.done[f"not possible: {answer.code}"] += 1
        except OperationalError:
            self.done["the database was away"] += 1

    @staticmethod
    def _load(pk: int) -> tuple[Clearing, Operation]:
        case = load(pk)
        return case.clearing, case.operation

    def _settle_unsure(self, pk: int) -> None:
        self._confirm(*self._load(pk))

    def _help(self, pk: int, *, impatient: bool) -> None:
        clearing, operation = self._load(pk)
        unsure = operation.state in UNSURE
        if clearing.hold_code:
            self._ask(clearing, InterventionKind.RELEASE_HOLD, OutsideEvidence())
        elif unsure and not impatient and (clearing.error_code in {KEY_EXPIRED, KEY_REUSED} or self.random.random() < BY_PHONE):
            self._confirm(clearing, operation)
        else:
            retry_by_hand(pk, actor=ANN.name, reason="looked at it")
            self.done["retried"] += 1

    def _confirm(self, clearing: Clearing, operation: Operation) -> None:
        result = self.books.result_of(operation.key)
        kind = InterventionKind.CONFIRM_NOT_DONE if result is None else InterventionKind.CONFIRM_DONE
        self._ask(clearing, kind, _evidence(result or {}))

    def _ask(self, clearing: Clearing, kind: InterventionKind, evidence: OutsideEvidence) -> None:
        with _as_the_admin_does():
            requests.request_approval(clearing.pk, kind, operator=ANN, reason="they said so", evidence=evidence)
        self.done[f"asked: {kind}"] += 1

    def approve(self) -> None:
        """Ben looks at what waits for him, for ever."""
        while True:
            self.scheduler.pause(self.random.uniform(*APPROVES_SECONDS), "ben looks")
            self.doors.set_clock()
            for pk in Intervention.objects.filter(state=InterventionState.REQUESTED).order_by("pk").values_list("pk", flat=True):
                self._try(partial(self._decide, pk))

    def _decide(self, pk: int) -> None:
        self.doors.set_clock()
        with _as_the_admin_does():
            asked = Intervention.objects.select_related("operation").get(pk=pk)
            if asked.kind == InterventionKind.CONFIRM_NOT_DONE and self.books.result_of(asked.operation.key) is not None:
                requests.refuse(pk, operator=BEN, reason="it was done after all")
                self.done["refused"] += 1
                return
            requests.approve(pk, operator=BEN)
        self.done[f"approved: {asked.kind}"] += 1

    def pause_one(self, seconds: float) -> None:
        """One counterparty, or one step of it, for so long."""
        name, _, step = self.random.choice(sorted(dues())).partition(":")
        number = self.random.choice([0, int(step)])
        self.done["paused"] += 1
        for paused in (True, False):
            self.doors.set_clock()
            counterparty_state.set_pause(name, number, paused=paused, reason="maintenance", actor=ANN.name)
            self.scheduler.pause(seconds if paused else 0.0, "a pause by people")


@contextmanager
def _as_the_admin_does() -> Iterator[None]:
    """One transaction, which is committed when the answer is no, too: what was asked for in vain is
    marked as failed.
    """
    refusal: NotPossible | None = None
    with transaction.atomic():
        try:
            yield
        except NotPossible as answer:
            refusal = answer
    if refusal is not None:
        raise refusal


def _evidence(result: Mapping[str, Any]) -> OutsideEvidence:
    amounts = {name: Decimal(result[name]) for name in ("amount", "sold", "bought", "min_lot") if name in result}
    amount = amounts.get("sold", amounts.get("amount"))
    return OutsideEvidence("phone-17", amount, amounts.get("bought"), amounts.get("min_lot"), "a call, recorded")
