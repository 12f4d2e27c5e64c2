"""What a run left: the audit's own verdict on it, and the shortest history of a broken order."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.models import Count

from clearing.models import Attempt, Clearing, CounterpartyStateChange, StatusChange
from clearing.status import Breaker, State
from ops.audit import database
from ops.audit.facts import Books, Placed
from ops.audit.report import Report, judge
from tests.simulation.attempts import counted
from tests.simulation.counterparties import effects, residues
from tests.simulation.world import World

LOOKED_AT_MAX = 200


@dataclass(frozen=True)
class Judged:
    """The audit's report, and the orders that aren't as they should be, with what is wrong."""

    report: Report
    broken: dict[str, str]
    parked: dict[str, int]  # how often an order was parked, by reason
    breakers_opened: int
    attempts: int  # rows of the table
    attempts_counted: int  # by the metric, and those that it can't count

    @property
    def passed(self) -> bool:
        """Nothing was lost, doubled, reordered or stranded, every residue is right, and the metric
        of attempts counts each row of their table.
        """
        return self.report.passed and not self.broken and self.attempts == self.attempts_counted

    def counts(self) -> dict[str, int]:
        """Violations by kind."""
        report = self.report
        return {
            "lost": len(report.missing),
            "doubled": len(report.doubled),
            "out_of_order": len(report.out_of_order),
            "stranded": sum(count for state, count in report.by_state.items() if state != "cleared"),
            "rule_12": len(report.broken) + (not report.balanced),
            "attempts_not_counted": self.attempts - self.attempts_counted,
        }


def judged(world: World) -> Judged:
    """Reads the database and the counterparties' books."""
    placed = world.counter.placed
    held = database.read_orders()
    report = judge(
        Books(
            placed={
                order_id: Placed(
                    *(order_id, order.user_id, order.direction, order.asset),
                    *(Decimal(order.quantity), Decimal(order.quoted_usdt), order.created_ms),
                )
                for order_id, order in placed.items()
            },
            held=held,
            effects=effects(world.counterparties.applied, {order_id: order.user_id for order_id, order in placed.items()}),
            residues=residues(placed, world.counterparties.applied),
            balanced=True,
        )
    )
    broken = {order_id: f"is {order.state}" for order_id, order in held.items() if order.state != "cleared"}
    broken |= dict.fromkeys(report.missing, "is lost") | {key.partition(":")[0]: f"doubled: {key}" for key in report.doubled}
    broken |= {text.partition(" ")[0]: text for text in report.out_of_order}
    broken |= {order_id: "; ".join(faults) for order_id, faults in report.broken.items()}
    reasons = StatusChange.objects.filter(to_state=State.PARKED).values_list("reason").annotate(Count("id")).order_by("reason")
    return Judged(
        report,
        broken,
        dict(reasons),
        breakers_opened=CounterpartyStateChange.objects.filter(change=Breaker.OPEN).count(),
        attempts=Attempt.objects.count(),
        attempts_counted=int(counted() - world.attempts_before) + len(world.doors.uncounted),
    )


def shortest_history(world: World, broken: dict[str, str]) -> list[str]:
    """Of the broken orders, the one to which the least happened: its changes, its attempts and its
    effects, by time.

    One that only waits is the victim of another, and comes last. After it that of the order which
    came in between, where one did.
    """
    causes = {order_id: what for order_id, what in broken.items() if what != "is waiting"} or broken
    histories = [_with_the_other(world, order_id, what) for order_id, what in sorted(causes.items())[:LOOKED_AT_MAX]]
    return min(histories, key=len, default=[])


def _with_the_other(world: World, order_id: str, what: str) -> list[str]:
    other = what.rpartition(" by ")[2]
    return _history(world, order_id, what) + (_history(world, other, "came in between") if other in world.counter.placed else [])


def _history(world: World, order_id: str, what: str) -> list[str]:
    clearing = Clearing.objects.filter(order__order_id=order_id).first()
    head = f"{order_id} {what}: {world.counter.placed.get(order_id, 'never placed')}"
    applied = [f"applied: {one.key} {one.request} -> {one.result}" for one in world.counterparties.applied if one.order_id == order_id]
    if clearing is None:
        return [head, *applied]
    events: list[tuple[Any, str]] = [
        (change.at, f"{change.from_state or '-'} -> {change.to_state} step {change.step} epoch {change.epoch} {change.reason} by {change.actor}")
        for change in StatusChange.objects.filter(clearing=clearing)
    ]
    events += [(one.sent_at, _told(one)) for one in Attempt.objects.filter(operation__clearing=clearing).select_related("operation")]
    return [head, *(f"{at:%T.%f} {text}" for at, text in sorted(events, key=lambda event: event[0])), *applied]


def _told(one: Attempt) -> str:
    how = "asked" if one.asked else "sent"
    return f"{how} {one.operation.key}: {one.outcome} {one.code} epoch {one.epoch} by {one.worker}, until {one.answered_at:%T.%f}"
