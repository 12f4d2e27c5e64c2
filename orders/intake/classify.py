"""What comes in, read: each row of a message becomes one item that says what is to be done with it.
Pure.

Arrival   an order to accept, or to find known
Suspect   a changed or deleted row: it matters if it belongs to an accepted order
Bad       can't be read or isn't a valid order: to be quarantined
Skipped   none of our business: counted
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from msgspec import structs

from orders.decoding.decode import RowChange, UnreadableMessage, decode
from orders.intake import mapping
from orders.intake.mapping import Filtered, FilterReason, NewOrder, Refused, Row, Rules, stated_hash, stated_order_id

UNREADABLE = "unreadable"
CONTENTS_DIFFER = "contents_differ"
DELETED = "deleted_at_counter"
DELETED_UNKNOWN = "deleted_unknown"  # a valid order that was deleted before we ever saw it
DATABASE_REFUSED = "database_refused"
INTERNAL_ERROR = "internal_error"  # a mistake of ours that others of its batch don't meet
TABLE_CHANGED = "table_changed"
REFUSED_PREFIX = "refused:"
# What stands in a topic's place for rows that the counter's interface gave, followed by the shard:
# of its sync-order table, of its order table.
GAP_PREFIX = "gap:"
ORDER_TABLE_PREFIX = "order_table:"

Place = tuple[str, int, int]  # topic, partition, offset


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from, and the whole of it: its bytes, or the row of the counter's
    interface that it is.
    """

    topic: str
    partition: int
    offset: int
    whole: bytes | Row
    written_ms: int | None = None  # when it was written to the log, where the log says so

    @property
    def message(self) -> bytes:
        """The bytes to keep; of a row only made where they are, since a gap pass reads thousands
        that nobody keeps.
        """
        return self.whole if isinstance(self.whole, bytes) else json.dumps(self.whole, sort_keys=True).encode()

    @property
    def place(self) -> Place:
        return self.topic, self.partition, self.offset

    @property
    def message_hash(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return sha256(self.message).hexdigest()

    def is_before(self, place: Place, known_ms: int) -> bool:
        """Whether this is known to have been written before that, which was read by then: it lies
        before it in the same partition of the same log.

        A log that was made anew counts from 0 again: what was written to it after that had been
        read isn't its past, whatever the offset.
        """
        lies_before = (self.topic, self.partition) == place[:2] and self.offset < place[2]
        return lies_before and (self.written_ms is None or self.written_ms <= known_ms)


@dataclass(frozen=True, slots=True)
class Arrival:
    order: NewOrder
    origin: Origin


@dataclass(frozen=True, slots=True)
class Bad:
    """To be quarantined under `reason`. `contents_hash`: of the contents that it tells, where it
    tells any.
    """

    reason: str
    detail: str
    order_id: str
    origin: Origin
    contents_hash: str = ""


@dataclass(frozen=True, slots=True)
class Suspect:
    """If the order is accepted: quarantine and hold under `code`; if not: quarantine under
    `otherwise`, or only count where that is empty.
    """

    order_id: str
    code: str
    detail: str
    otherwise: str
    origin: Origin
    contents_hash: str = ""  # empty of a deletion: each is one of its own

    def bad(self, reason: str) -> Bad:
        """As what is quarantined, under one of its two codes."""
        return Bad(reason, self.detail, self.order_id, self.origin, self.contents_hash)


@dataclass(frozen=True, slots=True)
class Skipped:
    reason: str


Item = Arrival | Suspect | Bad | Skipped


@dataclass(frozen=True, slots=True)
class Reading:
    """A message's items, and which operations on our table it told of."""

    items: list[Item]
    operations: list[str]


def read_message(raw: bytes | None, origin: Origin, rules: Rules) -> Reading:
    """Reads a message of the binlog."""
    try:
        changes = decode(raw)
    except UnreadableMessage as error:
        return Reading([Bad(UNREADABLE, str(error), "", origin)], [])
    ours = [change for change in changes if f"{change.database}.{change.table}" == rules.table]
    items: list[Item] = [Skipped(FilterReason.TABLE)] * (len(changes) - len(ours))
    if rules.columns:
        ours = [structs.replace(change, before=rules.named(change.before), after=rules.named(change.after)) for change in ours]
    for change in ours:
        items.extend(_OPERATIONS[change.operation](change, origin, rules))
    return Reading(items, [change.operation for change in ours])


def read_row(row: Row, origin: Origin, rules: Rules) -> Item:
    """Reads a row of the counter's interface."""
    return _arrival(row, mapping.from_interface, origin, rules)


def read_again(origin: Origin, rules: Rules) -> list[Item]:
    """Reads what was kept in quarantine: a message of the binlog, or a row of the counter's
    interface as JSON.
    """
    if not origin.topic.startswith((GAP_PREFIX, ORDER_TABLE_PREFIX)):
        return read_message(origin.message, origin, rules).items
    return [read_row(json.loads(origin.message, parse_int=str, parse_float=str, parse_constant=str), origin, rules)]


def _arrival(row: Row, mapped: Callable[[Row, Rules], NewOrder | Filtered], origin: Origin, rules: Rules) -> Item:
    try:
        order = mapped(row, rules)
    except Refused as refusal:
        return _refused(refusal, row, origin)
    return Skipped(order.reason) if isinstance(order, Filtered) else Arrival(order, origin)


def _refused(refusal: Refused, row: Row, origin: Origin) -> Bad | Suspect:
    """A row that isn't valid may still name an order that we have accepted with other contents."""
    reason = REFUSED_PREFIX + refusal.code
    order_id = stated_order_id(row)
    if not order_id:
        return Bad(reason, str(refusal), "", origin)
    return Suspect(order_id, CONTENTS_DIFFER, str(refusal), reason, origin, stated_hash(row))


def _inserted(change: RowChange, origin: Origin, rules: Rules) -> Iterator[Item]:
    yield _arrival(change.after or {}, mapping.from_binlog, origin, rules)


def _updated(change: RowChange, origin: Origin, rules: Rules) -> Iterator[Item]:
    """The new row is an order as it stands: known, new (its insert was lost), or one whose contents
    differ.
    """
    after = change.after or {}
    item = _arrival(after, mapping.from_binlog, origin, rules)
    order_id = stated_order_id(after)
    if isinstance(item, Skipped) and order_id:
        item = Suspect(order_id, CONTENTS_DIFFER, f"updated to a row that is filtered: {item.reason}", "", origin, stated_hash(after))
    yield item
    renamed = stated_order_id(change.before or {})
    if renamed and renamed != order_id:
        yield Suspect(renamed, DELETED, f"updated to the order id {order_id!r}", "", origin)


def _deleted(change: RowChange, origin: Origin, rules: Rules) -> Iterator[Item]:
    before = change.before or {}
    item = _arrival(before, mapping.from_binlog, origin, rules)
    order_id = stated_order_id(before)
    if order_id:
        otherwise = DELETED_UNKNOWN if isinstance(item, Arrival) else item.otherwise if isinstance(item, Suspect) else ""
        yield Suspect(order_id, DELETED, "deleted at the counter", otherwise, origin)
    else:
        yield item


def _table_changed(_change: RowChange, _origin: Origin, _rules: Rules) -> Iterator[Item]:
    yield Skipped(TABLE_CHANGED)


_OPERATIONS: dict[str, Callable[[RowChange, Origin, Rules], Iterator[Item]]] = {
    "insert": _inserted,
    "update": _updated,
    "delete": _deleted,
    "ddl": _table_changed,
}
