"""Replay: messages that were read before, or are in quarantine, are parsed and ingested once more.

Known orders are left as they are, so a replay may be repeated and may overlap with what the
consumer reads. A dry run only compares.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from base.clock import ServiceNow
from orders.backfill.verdicts import Tally, Verdict, judge, order_id_of, order_ids_of
from orders.intake.classify import Arrival, Item, Origin, read_again, read_message
from orders.intake.faults import FAULT_FIX, IntakeFault
from orders.intake.ingest import Intake
from orders.intake.mapping import Rules, canonical_hash
from orders.intake.order_store import stored_hashes
from orders.models import Quarantined, QuarantinedMessage
from orders.stream.topic_reader import Message

log = structlog.get_logger(__name__)

QUARANTINED_PAGE_ROWS: Final = 100
_WORST_FIRST: Final = (Verdict.DIFFERS, Verdict.REFUSED, Verdict.NEW, Verdict.KNOWN, Verdict.FILTERED)


@dataclass(slots=True)
class Replay:
    """Ingests batches of messages and counts their verdicts. A dry run has no `intake`; `only`
    limits it to one order's rows.
    """

    rules: Rules
    intake: Intake | None
    only: str = ""
    tally: Tally = field(default_factory=Tally)
    _would_be_new: dict[str, str] = field(default_factory=dict)  # in a dry run, so that an order that comes twice is new once

    def run(self, messages: Iterable[Message]) -> None:
        """Ingests one batch. Raises the database's errors that aren't about a row; what was
        ingested before stays.
        """
        items = [item for raw, origin in messages for item in read_message(raw, origin, self.rules).items]
        if self.only:
            items = [item for item in items if order_id_of(item) == self.only]
        verdicts = judge(items, {**self._would_be_new, **stored_hashes(order_ids_of(items))})
        self.tally.count(verdicts)
        new = [item for item, verdict in zip(items, verdicts, strict=True) if verdict is Verdict.NEW and isinstance(item, Arrival)]
        if self.intake is None:
            self._would_be_new |= {item.order.order_id: canonical_hash(item.order) for item in new}
        else:
            self._correct(new, self.intake(items).accepted)

    def _correct(self, new: Sequence[Arrival], accepted: int) -> None:
        """Corrects the counts: between comparing and storing, the consumer may have stored some of
        the new orders, and the database may have refused others.
        """
        missed = len(new) - accepted
        if missed:
            refused = len({item.order.order_id for item in new} - stored_hashes(order_ids_of(new)).keys())
            self.tally.add(Verdict.NEW, -missed)
            self.tally.add(Verdict.REFUSED, refused)
            self.tally.add(Verdict.KNOWN, missed - refused)


@dataclass(frozen=True, slots=True)
class ReplayedRow:
    """A quarantined message, and the verdict of reading it again. `went_in`: its orders are now
    stored with its contents.

    `fault`: the internal error that kept it out, if one did.
    """

    row: Quarantined
    verdict: Verdict
    went_in: bool
    fault: str = ""


def waiting_in_quarantine(reason: str = "") -> Iterator[Quarantined]:
    """The messages that weren't replayed yet, oldest first; with this reason, or with any."""
    rows = Quarantined.objects.filter(replayed_at=None, **({"reason": reason} if reason else {})).order_by("pk")
    after = 0
    while page := list(rows.filter(pk__gt=after)[:QUARANTINED_PAGE_ROWS]):
        yield from page
        after = page[-1].pk


def replay_quarantined(row: Quarantined, rules: Rules, intake: Intake | None) -> ReplayedRow:
    """Reads one message again and ingests it, or only compares (`intake` None). Sets `replayed_at`
    if its orders are stored now.

    A message that causes an internal error counts as refused: the others are replayed all the same.
    Raises the database's errors that aren't about a row.
    """
    items = _items_of(row, rules)
    verdict = _worst(judge(items, stored_hashes(order_ids_of(items))))
    if intake is None:
        return ReplayedRow(row, verdict, went_in=False)
    try:
        intake(items)
    except IntakeFault as fault:
        log.exception("this order can't be opened", quarantined=row.pk, order_id=row.order_id, fix=FAULT_FIX)
        return ReplayedRow(row, Verdict.REFUSED, went_in=False, fault=str(fault))
    after = _worst(judge(items, stored_hashes(order_ids_of(items))))
    if after is Verdict.KNOWN:
        Quarantined.objects.filter(pk=row.pk).update(replayed_at=ServiceNow())
    if verdict is Verdict.NEW and after is not Verdict.KNOWN:  # refused by the database itself
        verdict = Verdict.REFUSED
    return ReplayedRow(row, verdict, went_in=after is Verdict.KNOWN)


def _items_of(row: Quarantined, rules: Rules) -> list[Item]:
    """The message's items that concern the row's order; all its items if the row names no order."""
    kept = _kept_whole(row, rules) if row.order_id else None
    if kept is not None:
        return kept.get(row.order_id, [])
    items = read_again(Origin(row.topic, row.partition, row.offset, bytes(row.message or b"")), rules)
    return [item for item in items if not row.order_id or order_id_of(item) == row.order_id]


_Kept = dict[str, list[Item]]
_last_kept: tuple[tuple[str, int, int, str], Rules, _Kept] | None = None  # its rows follow one another: it is read once for all of them


def _kept_whole(row: Quarantined, rules: Rules) -> _Kept | None:
    """The items of a message that is kept whole, by their orders; None for one that isn't."""
    global _last_kept  # noqa: PLW0603 - a memo of one entry, replaced as a whole
    place = (row.topic, row.partition, row.offset, row.message_hash)
    last = _last_kept
    if last is not None and last[0] == place and last[1] is rules:
        return last[2]
    found = QuarantinedMessage.objects.filter(pk=row.message_hash).first()
    if found is None:
        return None
    items: _Kept = {}
    for item in read_again(Origin(row.topic, row.partition, row.offset, bytes(found.message)), rules):
        items.setdefault(order_id_of(item), []).append(item)
    _last_kept = (place, rules, items)
    return items


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    return min(verdicts, key=_WORST_FIRST.index, default=Verdict.FILTERED)
