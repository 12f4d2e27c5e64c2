"""The audit's findings: counts, examples and latencies, and the verdict. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from ops.audit.facts import VOIDED, Books, Effect
from ops.audit.lanes import out_of_order
from ops.audit.steps import by_order, doubled, faults_of, total_slippage

EXAMPLES_MAX = 10
CLEARED = "cleared"


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the row's own column, over so many orders."""

    orders: int
    p50_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """What the audit found. Lists are complete; whoever prints them cuts."""

    placed: int
    accepted: int
    cleared: int
    by_state: Mapping[str, int]
    missing: Sequence[str]  # placed at the counter, not in our database
    unplaced: Sequence[str]  # in our database, never placed
    doubled: Sequence[str]  # keys of effects that were applied once too often
    out_of_order: Sequence[str]
    broken: Mapping[str, Sequence[str]]  # cleared orders for which rule 12 doesn't hold, with what is wrong
    balanced: bool
    slippage_stored_usdt: Decimal
    slippage_ledger_usdt: Decimal
    late: int
    to_accepted: Latency
    to_cleared: Latency

    @property
    def passed(self) -> bool:
        """Nothing is missing, doubled or out of order, and rule 12 holds for every cleared
        order.
        """
        return self.balanced and not (self.missing or self.unplaced or self.doubled or self.out_of_order or self.broken)

    @property
    def voided(self) -> int:
        """How many orders people closed without clearing them."""
        return self.by_state.get(VOIDED, 0)

    @property
    def all_cleared(self) -> bool:
        """Every placed order has been cleared, but for those that people voided."""
        return self.cleared + self.voided >= self.placed

    def as_json(self) -> dict[str, Any]:
        """For `--json`: amounts as text, examples cut, with the verdict."""
        plain = asdict(self)
        for name in ("missing", "unplaced", "doubled", "out_of_order"):
            plain[name] = {"count": len(plain[name]), "examples": list(plain[name])[:EXAMPLES_MAX]}
        plain["broken"] = {"count": len(self.broken), "examples": dict(list(self.broken.items())[:EXAMPLES_MAX])}
        for name in ("slippage_stored_usdt", "slippage_ledger_usdt"):
            plain[name] = f"{plain[name]:f}"
        return {"passed": self.passed, "all_cleared": self.all_cleared, **plain}


def judge(books: Books) -> Report:
    """Compares everything with everything."""
    effects = by_order(books.effects)
    ours = {order_id: order for order_id, order in books.held.items() if order_id not in books.placed_later}
    cleared = [order_id for order_id, order in ours.items() if order.state == CLEARED and order_id in books.placed]
    in_time = [order for order_id, order in ours.items() if order_id in books.placed]
    return Report(
        placed=len(books.placed),
        accepted=len(in_time),
        cleared=len(cleared),
        by_state=dict(sorted(Counter(order.state for order in in_time).items())),
        missing=sorted(books.placed.keys() - books.held.keys()),
        unplaced=sorted(ours.keys() - books.placed.keys()),
        doubled=[key for order_effects in effects.values() for key in doubled(order_effects)],
        out_of_order=[str(breach) for breach in out_of_order(books.held, books.effects)],
        broken=broken_orders(books, cleared, effects),
        balanced=books.balanced,
        slippage_stored_usdt=sum((ours[order_id].slippage_usdt or Decimal(0) for order_id in cleared), Decimal(0)),
        slippage_ledger_usdt=total_slippage((books.placed[order_id] for order_id in cleared), books.residues),
        late=sum(order.late for order in in_time),
        to_accepted=latency(order.accepted_ms - order.place[0] for order in in_time),
        to_cleared=latency(order.cleared_ms - order.place[0] for order in in_time if order.cleared_ms is not None),
    )


def broken_orders(books: Books, cleared: Iterable[str], effects: Mapping[str, Sequence[Effect]]) -> dict[str, list[str]]:
    """The cleared orders for which rule 12 doesn't hold."""
    found = {}
    for order_id in cleared:
        faults = faults_of(books.placed[order_id], effects.get(order_id, ()), books.residues.get(order_id, {}), books.held[order_id].slippage_usdt)
        if faults:
            found[order_id] = faults
    return found


def latency(milliseconds: Iterable[float]) -> Latency:
    """The median and the 99th percentile, nearest rank."""
    ordered = sorted(milliseconds)
    return Latency(len(ordered), percentile(ordered, 50), percentile(ordered, 99))


def percentile(ordered: Sequence[float], percent: int) -> float | None:
    """The nearest-rank percentile of sorted values; None of nothing."""
    if not ordered:
        return None
    rank = -(-len(ordered) * percent // 100)
    return round(ordered[max(rank, 1) - 1], 1)
