"""Fakes of the functions that `orders` is given by `clearing`: they record their arguments and
write nothing to the database.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
from django.db import connection

from base.fence import Fence, no_fence
from orders.intake.classify import Arrival, Item
from orders.intake.faults import never_succeeded
from orders.intake.ingest import AcceptedOrder, ingest
from orders.intake.result import IngestResult
from orders.models import Quarantined, Source, SyncOrder


@dataclass
class FakeClearings:
    opened: list[str] = field(default_factory=list)
    held: list[tuple[str, str]] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    while_opening: Callable[[Sequence[AcceptedOrder]], None] = lambda _: None
    while_publishing: Callable[[], bool] = lambda: True
    archived: set[str] = field(default_factory=set)
    fence: Fence = no_fence
    others_succeeded: Callable[[], bool] = never_succeeded

    def open_clearings(self, accepted: Sequence[AcceptedOrder]) -> list[str]:
        assert connection.in_atomic_block
        self.while_opening(accepted)
        self.opened += [order.order.order_id for order in accepted]
        return [order.order.order_id for order in accepted]

    def hold(self, order_id: str, code: str) -> None:
        assert connection.in_atomic_block
        self.held.append((order_id, code))

    def publish(self, refs: Sequence[str]) -> bool:
        assert not connection.in_atomic_block
        sent = self.while_publishing()
        self.published += refs
        return sent

    def ingest(self, items: Sequence[Item], source: Source = Source.KAFKA) -> IngestResult:
        return ingest(
            items,
            source=source,
            open_clearings=self.open_clearings,
            hold=self.hold,
            publish=self.publish,
            archived=self.archived.intersection,
            fence=self.fence,
            others_succeeded=self.others_succeeded,
        )

    def ingest_from_gap(self, items: Sequence[Item]) -> IngestResult:
        return self.ingest(items, Source.GAP)


def order_ids() -> list[str]:
    return list(SyncOrder.objects.order_by("order_id").values_list("order_id", flat=True))


def reasons() -> list[tuple[str, str]]:
    return list(Quarantined.objects.order_by("id").values_list("order_id", "reason"))


def changed(item: Item, **fields: object) -> Arrival:
    """The arrival with fields that mapping would never let through."""
    assert isinstance(item, Arrival)
    return Arrival(msgspec.structs.replace(item.order, **fields), item.origin)
