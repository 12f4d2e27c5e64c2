"""Maps a row of the counter's sync-order table, from any source, to a NewOrder. Pure.

There are two shapes. The binlog's row has `created_at`, a DATETIME(3) without a zone (it is in
INTAKE_ZONE), or what a source without a schema makes of it: a number since the epoch, or a text
with a zone. The row of the counter's interface has `created_ms`. Both give the same order, and so
the same canonical hash: `1.50` is `1.5`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

import msgspec
from django.conf import settings

from base.decimals import plain
from orders.decoding.changes import shortened
from orders.intake.authentic import Authority

Row = Mapping[str, Any]

USDT: Final = "USDT"
TEXT_LENGTH_MAX: Final = 64
INTEGER_DIGITS_MAX: Final = 18
SHARD_MAX: Final = 2**31 - 1
SEQUENCE_MAX: Final = 2**63 - 1
CREATED_MS_MAX: Final = 253_402_300_799_999  # the end of the year 9999 in UTC, whatever zone the row's time is in

# What an address takes without an encoding (RFC 3986, "unreserved"): an id becomes part of the path
# that is signed, and a proxy that decodes or cleans paths would break that order's signature.
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_PROOF: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_AMOUNT: Final = re.compile(r"([0-9]{1,60})(?:\.([0-9]{1,60}))?")
_INTEGER: Final = re.compile(r"[0-9]{1,20}")
_NEGATIVE: Final = re.compile(r"-[1-9][0-9]{0,18}")
_DATETIME: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})?")
_SINCE_EPOCH: Final = re.compile(r"[0-9]{13}|[0-9]{16}|[0-9]{19}")  # milli-, micro- or nanoseconds, of the years 2001 to 2286
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


class RefusalCode(StrEnum):
    """Why a row isn't an order that we can accept."""

    MISSING_FIELD = "missing_field"
    BAD_TEXT = "bad_text"
    BAD_NUMBER = "bad_number"
    OUT_OF_BOUNDS = "out_of_bounds"
    BAD_SCALE = "bad_scale"
    UNKNOWN_DIRECTION = "unknown_direction"
    FOREIGN_ORDER_ID = "foreign_order_id"
    UNKNOWN_ASSET = "unknown_asset"
    BAD_TIMESTAMP = "bad_timestamp"
    FROM_THE_FUTURE = "from_the_future"
    NOT_AUTHENTIC = "not_authentic"


class Refused(ValueError):  # noqa: N818 - named by what it reports
    """The row isn't a valid order: `code` says why, `field` where."""

    def __init__(self, code: RefusalCode, field: str, value: object = None) -> None:
        self.code = code
        self.field = field
        super().__init__(f"{code}: {field}" + (f" is {shortened(value)}" if value is not None else ""))


class FilterReason(StrEnum):
    """Why a row isn't cleared."""

    KIND = "kind"  # not an exchange order
    OLD = "old"  # created before INTAKE_SINCE, or before what the first start said
    TABLE = "table"  # of another table


@dataclass(frozen=True, slots=True)
class Filtered:
    """A valid row that isn't cleared."""

    reason: FilterReason


class NewOrder(msgspec.Struct, frozen=True, gc=False):
    """An exchange order as the counter wrote it; amounts exact, `created_ms` since the epoch,
    UTC. `mac` and `mac_key_id`: the counter's proof, empty where the row has none.
    """

    order_id: str
    user_id: str
    shard: int
    sequence: int
    contract_id: str
    direction: str
    asset: str
    quantity: Decimal
    quoted_usdt: Decimal
    instrument: str
    created_ms: int
    kind: str = ""
    mac: str = ""
    mac_key_id: str = ""


_MAPPED: Final = ("kind", "created_at", *(name for name in NewOrder.__struct_fields__ if name not in {"kind", "mac", "mac_key_id"}))


@dataclass(frozen=True, slots=True)
class Rules:
    """Which rows are orders for us."""

    table: str  # database.table of the binlog
    exchange_kinds: frozenset[str]
    since_ms: int
    scales: Mapping[str, int]  # decimals of each asset that is cleared, and of USDT
    columns: Mapping[str, str] = field(default_factory=dict)  # the counter's column -> our field, where they differ
    zone: tzinfo = UTC  # of a created_at that names none
    authority: Authority | None = None  # by whose MAC a row is known to be the counter's; None: none is asked for
    order_ids: re.Pattern[str] = _IDENTIFIER  # which the counter gives; each is an identifier

    @classmethod
    def from_settings(cls, started_since_ms: int = 0) -> "Rules":
        """The rules by the settings INTAKE_… and ASSET_SCALES, and by what was said at the first
        start (orders/intake/first_start.py).
        """
        return cls(
            table=settings.INTAKE_TABLE,
            exchange_kinds=frozenset(settings.INTAKE_EXCHANGE_KINDS),
            since_ms=max(milliseconds(settings.INTAKE_SINCE), started_since_ms),
            scales=dict(settings.ASSET_SCALES),
            columns={column: name for name, column in settings.INTAKE_COLUMNS.items()},
            zone=UTC if settings.INTAKE_ZONE.key == "UTC" else settings.INTAKE_ZONE,
            authority=Authority.from_settings(),
            order_ids=settings.INTAKE_ORDER_ID_PATTERN,
        )

    def named(self, row: Row | None) -> Row | None:
        """The row with the counter's columns renamed to our fields. A column that is named like one
        of our fields, but is mapped from another column, is dropped.
        """
        if row is None or not self.columns:
            return row
        mapped_fields = {field for column, field in self.columns.items() if column != field}
        unmapped = {name: value for name, value in row.items() if name not in self.columns and name not in mapped_fields}
        return unmapped | {field: row[column] for column, field in self.columns.items() if column in row}


def milliseconds(at: datetime) -> int:
    """Since the epoch."""
    return (at - _EPOCH) // _MILLISECOND


def from_binlog(row: Row, rules: Rules) -> NewOrder | Filtered:
    """Maps a row of the binlog. Raises Refused."""
    return _map(row, rules, _created_at)


def from_interface(row: Row, rules: Rules) -> NewOrder | Filtered:
    """Maps a row of the counter's interface. Raises Refused."""
    return _map(row, rules, _created_ms)


def canonical_hash(order: NewOrder) -> str:
    """SHA-256, in hex, of the order's fields in their canonical form (design, rule 2)."""
    fields = (
        order.order_id, order.user_id, str(order.shard), str(order.sequence), order.contract_id, order.direction, order.asset,
        plain(order.quantity), plain(order.quoted_usdt), order.instrument, str(order.created_ms),
    )  # fmt: skip
    return sha256("\x1f".join(fields).encode("utf-8", "surrogatepass")).hexdigest()


def stated_order_id(row: Row) -> str:
    """The row's order id, also where the row is refused; empty where it has none that could be
    stored.
    """
    value = row.get("order_id")
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else ""


def stated_hash(row: Row) -> str:
    """SHA-256, in hex, of the mapped fields of an invalid row, as they are in the row."""
    stated = [(name, row.get(name)) for name in _MAPPED]
    return sha256(repr(stated).encode("utf-8", "surrogatepass")).hexdigest()


def _map(row: Row, rules: Rules, created: Callable[[Row, Rules], int]) -> NewOrder | Filtered:
    kind = _text(row, "kind")
    if kind not in rules.exchange_kinds:
        return Filtered(FilterReason.KIND)
    created_ms = created(row, rules)
    if created_ms > CREATED_MS_MAX:
        raise Refused(RefusalCode.BAD_TIMESTAMP, "created_at" if created is _created_at else "created_ms", created_ms)
    if created_ms < rules.since_ms:
        return Filtered(FilterReason.OLD)
    coins = frozenset(rules.scales) - {USDT}
    order = NewOrder(
        order_id=_order_id(row, rules),
        user_id=_user_id(row),
        shard=_integer(row, "shard", SHARD_MAX),
        sequence=_integer(row, "sequence", SEQUENCE_MAX),
        contract_id=_identifier(row, "contract_id"),
        direction=_one_of(row, "direction", ("OPEN", "CLOSE"), RefusalCode.UNKNOWN_DIRECTION),
        asset=(asset := _one_of(row, "asset", coins, RefusalCode.UNKNOWN_ASSET)),
        quantity=_amount(row, "quantity", rules.scales[asset]),
        quoted_usdt=_amount(row, "quoted_usdt", rules.scales[USDT]),
        instrument=_text(row, "instrument"),
        created_ms=created_ms,
        kind=kind,
        mac=_proof(row, "mac"),
        mac_key_id=_proof(row, "mac_key_id"),
    )
    if rules.authority and (doubt := rules.authority.doubt(order)):
        raise Refused(RefusalCode.NOT_AUTHENTIC, f"{order.order_id}: {doubt}")
    return order


def _proof(row: Row, name: str) -> str:
    """One of the MAC's columns. What has another form than one that the counter writes is none: it
    proves nothing, and an order without proof is as good where none is asked for.
    """
    value = row.get(name)
    return value if isinstance(value, str) and _PROOF.fullmatch(value) else ""


def _present(row: Row, name: str) -> str:
    """The field as text; whole numbers are taken by their digits."""
    value = row.get(name)
    if value is None:
        raise Refused(RefusalCode.MISSING_FIELD, name)
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**TEXT_LENGTH_MAX:
        return str(value)
    raise Refused(RefusalCode.BAD_TEXT, name, value)


def _text(row: Row, name: str) -> str:
    text = _present(row, name)
    if not 0 < len(text) <= TEXT_LENGTH_MAX or not text.isprintable():
        raise Refused(RefusalCode.BAD_TEXT, name, text)
    return text


def _identifier(row: Row, name: str) -> str:
    text = _present(row, name)
    if not _IDENTIFIER.fullmatch(text):
        raise Refused(RefusalCode.BAD_TEXT, name, text)
    return text


def _order_id(row: Row, rules: Rules) -> str:
    """An id of the counter's form. For us `o77` is another order than `O77`; for the counter it may
    be the same one, which would be cleared twice.
    """
    text = _identifier(row, "order_id")
    if not rules.order_ids.fullmatch(text):
        raise Refused(RefusalCode.FOREIGN_ORDER_ID, "order_id", text)
    return text


def _user_id(row: Row) -> str:
    """A BIGINT UNSIGNED. Debezium can print it as a signed long: beyond the signed range it is
    negative.
    """
    text = _identifier(row, "user_id")
    return str(int(text) + 2**64) if _NEGATIVE.fullmatch(text) else text


def _one_of(row: Row, name: str, known: frozenset[str] | tuple[str, ...], code: RefusalCode) -> str:
    text = _present(row, name)
    if text not in known:
        raise Refused(code, name, text)
    return text


def _integer(row: Row, name: str, largest: int) -> int:
    text = _present(row, name)
    if not _INTEGER.fullmatch(text):
        raise Refused(RefusalCode.BAD_NUMBER, name, text)
    number = int(text)
    if number > largest:
        raise Refused(RefusalCode.OUT_OF_BOUNDS, name, text)
    return number


def _amount(row: Row, name: str, scale: int) -> Decimal:
    """Exact: one that is finer than its asset's scale would be cut, and then be another amount than
    the counter's.
    """
    text = _present(row, name)
    found = _AMOUNT.fullmatch(text)
    if not found:
        raise Refused(RefusalCode.BAD_NUMBER, name, text)
    fraction = (found[2] or "").rstrip("0")
    if len(fraction) > scale:
        raise Refused(RefusalCode.BAD_SCALE, name, text)
    whole = found[1].lstrip("0")
    if len(whole) > INTEGER_DIGITS_MAX or not (whole or fraction):
        raise Refused(RefusalCode.OUT_OF_BOUNDS, name, text)
    return Decimal(f"{whole or '0'}.{fraction or '0'}")


def _created_at(row: Row, rules: Rules) -> int:
    text = _present(row, "created_at")
    if _SINCE_EPOCH.fullmatch(text):  # of a wall clock: senders of numbers take the column's digits for UTC
        return _from_wall(_EPOCH + int(text[:13]) * _MILLISECOND, rules.zone)
    found = _DATETIME.fullmatch(text)
    if not found:
        raise Refused(RefusalCode.BAD_TIMESTAMP, "created_at", text)
    try:
        second = datetime.fromisoformat(found[1] + (found[3] or "Z"))
    except ValueError:
        raise Refused(RefusalCode.BAD_TIMESTAMP, "created_at", text) from None
    milliseconds = int((found[2] or "").ljust(3, "0")[:3])
    return milliseconds + ((second - _EPOCH) // _MILLISECOND if found[3] else _from_wall(second, rules.zone))


def _from_wall(wall: datetime, zone: tzinfo) -> int:
    """Milliseconds since the epoch when a wall clock in the zone shows this time; if it shows it
    twice (the end of summer time), the first.
    """
    return ((wall if zone is UTC else wall.replace(tzinfo=zone)) - _EPOCH) // _MILLISECOND


def _created_ms(row: Row, _rules: Rules) -> int:
    text = _present(row, "created_ms")
    if not _INTEGER.fullmatch(text):
        raise Refused(RefusalCode.BAD_TIMESTAMP, "created_ms", text)
    return int(text)
