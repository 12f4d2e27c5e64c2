"""Rule 8: one user's orders clear one after another. Judged by the order in which the
counterparties applied their operations. Pure.

Two things can be wrong. An order that had begun was interrupted by another one of its user without
having been parked. Or a younger order began before an older one, although the older one was
accepted, not parked and not waiting behind a parked one of its contract when the younger became the
head of the lane; a late one, too, goes before whatever becomes the head after it came. Only the
second needs times, and those are all of our database's one clock.

A request that was on its way when its order was parked isn't an interruption: it was sent in its
turn, and an order that is parked steps aside.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from ops.audit.facts import Effect, HeldOrder

LAST_STEP = 4
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """An order that was passed, or interrupted, by another one of its user."""

    order_id: str
    by: str
    how: str  # "interrupted" or "passed"

    def __str__(self) -> str:
        return f"{self.order_id} was {self.how} by {self.by}"


def out_of_order(held: Mapping[str, HeldOrder], effects: Iterable[Effect]) -> list[OutOfOrder]:
    """Every breach among the orders that our database holds."""
    applied: dict[str, list[Effect]] = defaultdict(list)
    for effect in effects:
        if effect.order_id in held:
            applied[held[effect.order_id].user_id].append(effect)
    lanes: dict[str, list[HeldOrder]] = defaultdict(list)
    for order in held.values():
        lanes[order.user_id].append(order)
    found: list[OutOfOrder] = []
    for user_id, orders in lanes.items():
        found += interrupted(held, applied[user_id])
        found += passed(orders, applied[user_id])
    return found


def interrupted(held: Mapping[str, HeldOrder], effects: Sequence[Effect]) -> list[OutOfOrder]:
    """Orders that others of the user came between more often than they were parked. An order whose
    last step was applied is out of the way.
    """
    runs = _runs(_without_late(held, effects))
    left: dict[str, list[str]] = defaultdict(list)
    for (order_id, run), (following, _) in pairwise(runs):
        if not any(effect.place and effect.place[0] == LAST_STEP for effect in run):
            left[order_id].append(following)
    return [OutOfOrder(order_id, others[-1], "interrupted") for order_id, others in left.items() if len(others) > len(held[order_id].parked)]


def _runs(effects: Iterable[Effect]) -> list[tuple[str, list[Effect]]]:
    return [(order_id, list(run)) for order_id, run in groupby(effects, key=lambda effect: effect.order_id)]


def _without_late(held: Mapping[str, HeldOrder], effects: Sequence[Effect]) -> list[Effect]:
    """Leaves out an effect that was in doubt when its order was parked, where it stands alone after
    others had begun.
    """
    begun: set[str] = set()
    kept: list[Effect] = []
    for order_id, run in _runs(effects):
        if not (begun - {order_id} and len(run) == 1 and run[0].key in held[order_id].in_doubt):
            kept += run
        begun.add(order_id)
    return kept


def passed(orders: Sequence[HeldOrder], effects: Sequence[Effect]) -> list[OutOfOrder]:
    """Orders before which a younger one began, without a reason that rule 8 knows."""
    began: dict[str, float] = {}
    for position, effect in enumerate(effects):
        began.setdefault(effect.order_id, position)
    found = []
    overtaken: list[HeldOrder] = []  # older than the one looked at; only those that began later than some younger one can matter
    lane = sorted(orders, key=lambda order: order.place)
    earliest_after = _earliest_after([began.get(order.order_id, NEVER) for order in lane])
    for index, order in enumerate(lane):
        start = began.get(order.order_id, NEVER)
        found += [OutOfOrder(older.order_id, order.order_id, "passed") for older in overtaken if _passes(order, older, began, orders)]
        if earliest_after[index] < start:
            overtaken.append(order)
    return found


def _earliest_after(starts: Sequence[float]) -> list[float]:
    """For each place in the lane, the earliest start of all younger orders."""
    earliest, found = NEVER, [NEVER] * len(starts)
    for index in range(len(starts) - 1, -1, -1):
        found[index] = earliest
        earliest = min(earliest, starts[index])
    return found


def _passes(younger: HeldOrder, older: HeldOrder, began: Mapping[str, float], lane: Sequence[HeldOrder]) -> bool:
    if began.get(younger.order_id, NEVER) >= began.get(older.order_id, NEVER) or younger.promoted_ms is None:
        return False
    return not (older.accepted_ms > younger.promoted_ms or _steps_aside(older, younger.promoted_ms, lane))


def _steps_aside(order: HeldOrder, moment: float, lane: Sequence[HeldOrder]) -> bool:
    """It was parked then or voided by then, or waited behind a parked order of its contract."""
    if order.parked_at(moment) or order.voided_by(moment):
        return True
    siblings = (other for other in lane if other.contract_id == order.contract_id and other is not order)
    return any(other.parked_at(moment) and (other.started_ms is not None or other.place < order.place) for other in siblings)
