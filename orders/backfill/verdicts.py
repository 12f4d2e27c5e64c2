"""What ingesting items would result in: each is compared with the stored orders. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from orders.intake.classify import Arrival, Bad, Item, Skipped
from orders.intake.mapping import canonical_hash


class Verdict(StrEnum):
    """The result of comparing one item."""

    NEW = "new"  # an order that isn't stored
    KNOWN = "known"  # stored, with the same contents
    FILTERED = "filtered"  # not an exchange order, or too old
    REFUSED = "refused"  # can't be read, or isn't a valid order
    DIFFERS = "differs"  # stored, and this contradicts it: other contents, or a deletion


@dataclass(slots=True)
class Tally:
    """Items counted by their verdicts."""

    new: int = 0
    known: int = 0
    filtered: int = 0
    refused: int = 0
    differs: int = 0

    def count(self, verdicts: Iterable[Verdict]) -> None:
        for verdict in verdicts:
            self.add(verdict, 1)

    def add(self, verdict: Verdict, items: int) -> None:
        setattr(self, verdict.value, getattr(self, verdict.value) + items)


def order_ids_of(items: Sequence[Item]) -> set[str]:
    """The orders that the items name."""
    return {order_id for order_id in map(order_id_of, items) if order_id}


def order_id_of(item: Item) -> str:
    """The order that an item is about; empty where it names none."""
    if isinstance(item, Arrival):
        return item.order.order_id
    return "" if isinstance(item, Skipped) else item.order_id


def judge(items: Sequence[Item], stored: Mapping[str, str]) -> list[Verdict]:
    """The items' verdicts, in order; an order that comes twice is new once. `stored`: canonical
    hashes by order id.
    """
    known = dict(stored)
    verdicts = []
    for item in items:
        verdicts.append(_verdict(item, known))
        if verdicts[-1] is Verdict.NEW and isinstance(item, Arrival):
            known[item.order.order_id] = canonical_hash(item.order)
    return verdicts


def _verdict(item: Item, known: Mapping[str, str]) -> Verdict:
    if isinstance(item, Skipped):
        return Verdict.FILTERED
    if isinstance(item, Bad):
        return Verdict.REFUSED
    ours = known.get(order_id_of(item))
    if isinstance(item, Arrival):
        if ours is None:
            return Verdict.NEW
        return Verdict.KNOWN if ours == canonical_hash(item.order) else Verdict.DIFFERS
    if ours is not None:
        return Verdict.DIFFERS
    return Verdict.REFUSED if item.otherwise else Verdict.FILTERED
