"""Classifies each row of a Kafka message, or of the counter's interface, as one item that says how
to ingest it. Pure.

Arrival   an order to accept, unless it is stored already
Suspect   a changed or deleted row: it matters if it refers to an accepted order
Bad       can't be read or isn't a valid order: to be quarantined
Skipped   not an exchange order, or too old: only counted
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

from msgspec import structs

from orders.decoding.canal import as_canal_flat
from orders.decoding.decode import RowChange, UnreadableMessage, decode
from orders.intake import mapping
from orders.intake.mapping import Filtered, FilterReason, NewOrder, RefusalCode, Refused, Row, Rules, stated_hash, stated_order_id

UNREADABLE = "unreadable"
CONTENTS_DIFFER = "contents_differ"
DELETED = "deleted_at_counter"
DELETED_UNKNOWN = "deleted_unknown"  # a valid order that was deleted before we ever saw it
DATABASE_REFUSED = "database_refused"
INTERNAL_ERROR = "internal_error"  # an error of ours with this order, while others were accepted
TOO_MANY_ROWS = "too_many_rows"  # a message that no consumer reads at once; the gap pass brings its orders
TABLE_CHANGED = "table_changed"
SAYS_NOTHING = frozenset({RefusalCode.NOT_AUTHENTIC, RefusalCode.FOREIGN_ORDER_ID})  # about an order of that id
REFUSED_PREFIX = "refused:"
NOT_AUTHENTIC = REFUSED_PREFIX + RefusalCode.NOT_AUTHENTIC  # not the counter's, as far as anybody can show
EARLY = REFUSED_PREFIX + RefusalCode.FROM_THE_FUTURE  # a valid order whose time hasn't come: the gap pass brings it again
# For rows from the counter's interface these prefixes and the shard take the place of a topic: of
# its sync-order table, of its order table.
GAP_PREFIX = "gap:"
ORDER_TABLE_PREFIX = "order_table:"

Place = tuple[str, int, int]  # topic, partition, offset


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from, and its whole content: the bytes, or a row of the counter's
    interface. `change`: which of the message's rows is meant, where it has several.
    """

    topic: str
    partition: int
    offset: int
    whole: bytes | Row
    written_ms: int | None = None  # when it was written to the log, where the log says so
    change: RowChange | None = None

    @property
    def message(self) -> bytes:
        """The bytes to quarantine. A row's are made only when asked for, since a gap pass reads
        thousands of rows and quarantines few.
        """
        return self.whole if isinstance(self.whole, bytes) else json.dumps(self.whole, sort_keys=True).encode()

    @property
    def place(self) -> Place:
        return self.topic, self.partition, self.offset

    @property
    def message_hash(self) -> str:
        """SHA-256 of the bytes, in hex."""
        return _sha256(self.message)

    @property
    def own_row(self) -> bytes | None:
        """The row alone, as a message of Canal's; None where the message has no other."""
        return None if self.change is None else as_canal_flat(self.change)

    def is_before(self, place: Place, known_ms: int) -> bool:
        """Whether this message was surely written before the one at `place`, which we had read by
        `known_ms`: it has a lower offset in the same partition.

        A recreated log counts from 0 again. A message that was written after `known_ms` is
        therefore newer, whatever its offset.
        """
        lies_before = (self.topic, self.partition) == place[:2] and self.offset < place[2]
        return lies_before and (self.written_ms is None or self.written_ms <= known_ms)


@dataclass(frozen=True, slots=True)
class Arrival:
    order: NewOrder
    origin: Origin


@dataclass(frozen=True, slots=True)
class Bad:
    """To be quarantined under `reason`. `contents_hash`: of the order's contents that it states,
    empty where it states none.
    """

    reason: str
    detail: str
    order_id: str
    origin: Origin
    contents_hash: str = ""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A change of an order. If the order is accepted: quarantine it and put the order on hold under
    `code`. If not: quarantine it under `otherwise`, or only count it where that is empty.
    """

    order_id: str
    code: str
    detail: str
    otherwise: str
    origin: Origin
    contents_hash: str = ""  # empty for a deletion: each is a separate one

    def bad(self, reason: str) -> Bad:
        """As a message to quarantine, under one of its two codes."""
        return Bad(reason, self.detail, self.order_id, self.origin, self.contents_hash)


@dataclass(frozen=True, slots=True)
class Skipped:
    reason: str


Item = Arrival | Suspect | Bad | Skipped


@lru_cache(maxsize=2)
def _sha256(message: bytes) -> str:
    """The rows of a message follow one another: it is hashed once for all of them."""
    return sha256(message).hexdigest()


@dataclass(frozen=True, slots=True)
class Reading:
    """A message's items, and the operations on the sync-order table that it reports."""

    items: list[Item]
    operations: list[str]


def read_message(raw: bytes | None, origin: Origin, rules: Rules, rows_max: int | None = None) -> Reading:
    """Reads a message of the binlog. One with more than `rows_max` rows is bad as a whole."""
    try:
        changes = decode(raw)
    except UnreadableMessage as error:
        return Reading([Bad(UNREADABLE, str(error), "", origin)], [])
    if rows_max is not None and len(changes) > rows_max:
        return Reading([Bad(TOO_MANY_ROWS, f"{len(changes)} rows, {rows_max} are read at once", "", origin)], [])
    orders = [change for change in changes if f"{change.database}.{change.table}" == rules.table]
    items: list[Item] = [Skipped(FilterReason.TABLE)] * (len(changes) - len(orders))
    origins = [origin] * len(orders) if len(changes) == 1 else [replace(origin, change=change) for change in orders]
    if rules.columns:
        orders = [structs.replace(change, before=rules.named(change.before), after=rules.named(change.after)) for change in orders]
    for change, own in zip(orders, origins, strict=True):
        items.extend(_OPERATIONS[change.operation](change, own, rules))
    return Reading(items, [change.operation for change in orders])


def read_row(row: Row, origin: Origin, rules: Rules) -> Item:
    """Reads a row of the counter's interface."""
    return _arrival(row, mapping.from_interface, origin, rules)


def read_again(origin: Origin, rules: Rules) -> list[Item]:
    """Reads a quarantined message again: a message of the binlog, or a row of the counter's
    interface as JSON.
    """
    if not origin.topic.startswith((GAP_PREFIX, ORDER_TABLE_PREFIX)):
        return read_message(origin.message, origin, rules).items
    return [read_row(json.loads(origin.message, parse_int=str, parse_float=str, parse_constant=str), origin, rules)]


def _arrival(row: Row, mapped: Callable[[Row, Rules], NewOrder | Filtered], origin: Origin, rules: Rules) -> Item:
    try:
        order = mapped(row, rules)
    except Refused as refusal:
        return _refused(refusal, row, origin, is_believed=rules.authority is None or mapped is mapping.from_interface)
    return Skipped(order.reason) if isinstance(order, Filtered) else Arrival(order, origin)


def _refused(refusal: Refused, row: Row, origin: Origin, *, is_believed: bool) -> Bad | Suspect:
    """An invalid row may still name an order that we have accepted with other contents. One that
    nobody can show to be the counter's says nothing about any order: where MACs are asked for, an
    invalid row of Kafka can't be shown to be. Nor does one with an id of another form: an order
    that was accepted before the form was set mustn't be held when it is read again.
    """
    reason = REFUSED_PREFIX + refusal.code
    order_id = stated_order_id(row)
    if refusal.code in SAYS_NOTHING or (order_id and not is_believed):
        return Bad(reason, str(refusal), order_id, origin, stated_hash(row))
    if not order_id:
        return Bad(reason, str(refusal), "", origin)
    return Suspect(order_id, CONTENTS_DIFFER, str(refusal), reason, origin, stated_hash(row))


def _inserted(change: RowChange, origin: Origin, rules: Rules) -> Iterator[Item]:
    yield _arrival(change.after or {}, mapping.from_binlog, origin, rules)


def _updated(change: RowChange, origin: Origin, rules: Rules) -> Iterator[Item]:
    """The new row is read as an order: it is known, new (its insert was lost), or its contents
    differ. Where MACs are asked for, a change counts only if its new row is shown to be the
    counter's; what else became of an accepted order reconcile finds.
    """
    after = change.after or {}
    item = _arrival(after, mapping.from_binlog, origin, rules)
    order_id = stated_order_id(after)
    if rules.authority and not isinstance(item, Arrival):
        yield item
        return
    if isinstance(item, Skipped) and order_id:
        item = Suspect(order_id, CONTENTS_DIFFER, f"updated to a row that is filtered: {item.reason}", "", origin, stated_hash(after))
    yield item
    renamed = stated_order_id(change.before or {})
    is_shown = rules.authority is None or isinstance(_arrival(change.before or {}, mapping.from_binlog, origin, rules), Arrival)
    if renamed and renamed != order_id and is_shown:
        yield Suspect(renamed, DELETED, f"updated to the order id {order_id!r}", "", origin)


def _deleted(change: RowChange, origin: Origin, rules: Rules) -> Iterator[Item]:
    before = change.before or {}
    item = _arrival(before, mapping.from_binlog, origin, rules)
    order_id = stated_order_id(before)
    if rules.authority and not isinstance(item, Arrival):
        yield item
    elif order_id:
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
