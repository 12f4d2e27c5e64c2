"""Orders as tests need them: accepted, with their clearings, and workers that run them against
counterparties in memory.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from django.db import transaction

from base.clock import shift_clock
from clearing.dispatch import publish
from clearing.flow.flows import OrderFacts
from clearing.gateways.circuit_breaker import Guard
from clearing.gateways.fake import FakeCounterparties
from clearing.models import Attempt, Clearing, Operation
from clearing.running.runner import Runner
from clearing.store import claims, recovery
from clearing.store.claims import ClearingRef
from orders.models import SyncOrder

RECENT_MS = int(time.time() * 1000) - 3_600_000  # young enough to be sent without a question (design, rule 15)
_numbers = itertools.count(1)


@dataclass
class World:
    """The counterparties, a worker, and orders made to measure."""

    counterparties: FakeCounterparties = field(default_factory=FakeCounterparties)
    stopping: Callable[[], bool] = lambda: False
    guard: Guard = field(default_factory=lambda: Guard(lambda: "test-worker"))

    def accept(self, user_id: str = "1001", **facts: Any) -> Clearing:
        """An accepted order with its clearing; orders without a time follow one another."""
        return self.accept_with_refs(user_id, **facts)[0]

    def accept_with_refs(
        self,
        user_id: str,
        *,
        direction: str = "OPEN",
        contract_id: str = "",
        created_ms: int = 0,
        asset: str = "BTC",
        number: int = 0,
        restored: bool = False,
        quantity: Decimal | None = None,
        quoted_usdt: Decimal = Decimal(3_000),
    ) -> tuple[Clearing, list[ClearingRef]]:
        """An accepted order, and what is to be published. `number` makes the same order once more,
        after it was lost.
        """
        order = new_order(user_id, number or next(_numbers), direction=direction, contract_id=contract_id, created_ms=created_ms, asset=asset)
        order.quantity, order.quoted_usdt = quantity or order.quantity, quoted_usdt
        refs = self._open([order], restored=restored)
        return Clearing.objects.get(order=order), refs

    def accept_together(self, *orders: tuple[str, str, int]) -> tuple[list[Clearing], list[ClearingRef]]:
        """Orders (user, contract, ms after RECENT_MS) accepted in one transaction: their clearings
        in the same order, and what is to be published.
        """
        made = [new_order(user_id, next(_numbers), contract_id=contract_id, created_ms=RECENT_MS + ms) for user_id, contract_id, ms in orders]
        refs = self._open(made)
        return [Clearing.objects.get(order=order) for order in made], refs

    def _open(self, orders: Sequence[SyncOrder], *, restored: bool = False) -> list[ClearingRef]:
        with transaction.atomic():
            for order in orders:
                order.save()
            return claims.accept([(o.pk, facts_of(o)) for o in orders], actor="test", generation=publish.generation(), restored=restored)

    def runner(self) -> Runner:
        """A worker."""
        return Runner(lambda: "test-worker", self.counterparties.gateways(), self.stopping, self.guard)

    def run(self, clearing: Clearing) -> Clearing:
        """A worker runs the queued clearing as far as it goes; the fresh row."""
        clearing.refresh_from_db()
        self.runner().run(clearing.pk, clearing.epoch)
        clearing.refresh_from_db()
        return clearing

    def when_due(self, clearing: Clearing, seconds: float = 120) -> Clearing:
        """So much later, the sweep's view: takes back and queues what is interrupted; then a worker
        runs it.
        """
        shift_clock(seconds)
        recovery.requeue(interrupted(), actor="test", generation=publish.generation())
        shift_clock(0)
        return self.run(clearing)

    def keys_applied(self, clearing: Clearing) -> list[str]:
        """The keys of the order's effects at the counterparties, in order."""
        return [effect.key.partition(":")[2] for effect in self.counterparties.applied if effect.order_id == clearing.order.order_id]


def new_order(user_id: str, number: int, *, direction: str = "OPEN", contract_id: str = "", created_ms: int = 0, asset: str = "BTC") -> SyncOrder:
    """An order, not stored yet; the number makes it another than the rest."""
    return SyncOrder(
        order_id=f"T{number:06d}",
        user_id=user_id,
        shard=0,
        sequence=number,
        contract_id=contract_id or f"C{number}",
        direction=direction,
        asset=asset,
        quantity=Decimal("0.05") if asset == "BTC" else Decimal(1),
        quoted_usdt=Decimal(3000),
        instrument="BTC-OPTION",
        created_ms=created_ms or RECENT_MS + number,
        source="kafka",
        canonical_hash="",
    )


def facts_of(order: SyncOrder) -> OrderFacts:
    """What the steps need to know of it."""
    quantity, quoted_usdt = Decimal(order.quantity), Decimal(order.quoted_usdt)
    return OrderFacts(order.order_id, order.user_id, order.contract_id, order.direction, order.asset, quantity, quoted_usdt)


def outcomes(clearing: Clearing) -> list[tuple[int, str, str]]:
    """(step, outcome, code) of each attempt of the clearing, in order; a question is marked with a
    `?` before its outcome.
    """
    attempts = Attempt.objects.filter(operation__clearing=clearing).select_related("operation").order_by("id")
    return [(a.operation.step, f"{'?' if a.asked else ''}{a.outcome}", a.code) for a in attempts]


def history(clearing: Clearing) -> list[tuple[str, str, int]]:
    """(from, to, step) of each change of the clearing, in order."""
    return list(clearing.history.order_by("id").values_list("from_state", "to_state", "step"))


def operation(clearing: Clearing, step: int) -> Operation:
    """The clearing's latest operation of a step."""
    found = clearing.operations.filter(step=step).order_by("-part", "-revision").first()
    assert found is not None
    return found


def interrupted() -> list[int]:
    """What the sweep would take back or try again, whatever its counterparty."""
    return [*recovery.orphaned(100), *recovery.due({}, 100)]
