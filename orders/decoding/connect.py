"""Converts values by Kafka Connect's schemas, with Debezium's own types, to MySQL's text for them.
Pure.
"""

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec

from orders.decoding.mysql_types import Unconvertible, Value
from orders.decoding.values import value_text

SCALE_MAX: Final = 100  # MySQL's largest is 30
UNSCALED_BYTES_MAX: Final = 64  # MySQL's largest DECIMAL takes 27
UNSIGNED_64: Final = 1 << 64
SOURCE_TYPE: Final = "__debezium.source.column.type"  # given where column.propagate.source.type is set

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ZONED: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII)


class Column(msgspec.Struct, gc=False):
    """A schema: of a column, a row or the whole."""

    type: str
    field: str | None = None
    name: str | None = None
    parameters: dict[str, Any] | None = None
    fields: "list[Column] | None" = None


Convert = Callable[[Any], Value]


def converters(columns: Iterable[Column]) -> Mapping[str, Convert]:
    """The converters of the columns whose values aren't simply text or a number, by column name."""
    made = ((column.field, _converter(column)) for column in columns)
    return {name: convert for name, convert in made if name is not None and convert is not None}


def _converter(column: Column) -> Convert | None:
    parameters = column.parameters or {}
    if column.name in _DECIMALS:
        return partial(_decimal, scale=parameters.get("scale", 0))
    if column.name in _BY_NAME:
        return _BY_NAME[column.name]
    if column.type == "bytes" and column.name is None:
        return _bytes
    source_type = parameters.get(SOURCE_TYPE)
    return _unsigned if column.type == "int64" and isinstance(source_type, str) and "UNSIGNED" in source_type.upper() else None


def _bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise Unconvertible("no base64")
    try:
        return b64decode(value, validate=True)
    except ValueError:
        raise Unconvertible("no base64") from None


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unconvertible("no whole number")
    return value


def _decimal(value: object, scale: object) -> str:
    """Connect's Decimal: the unscaled number's bytes, or, with decimal.format=NUMERIC, the number
    itself.
    """
    if isinstance(value, int | Decimal):
        return str(value_text(value))
    places = int(scale) if isinstance(scale, str) and re.fullmatch("[0-9]{1,3}", scale, re.ASCII) else scale
    if not isinstance(places, int) or not 0 <= places <= SCALE_MAX:
        raise Unconvertible("a DECIMAL of no possible scale")
    unscaled = _bytes(value)
    if not 0 < len(unscaled) <= UNSCALED_BYTES_MAX:
        raise Unconvertible("a DECIMAL of no possible length")
    return _scaled(int.from_bytes(unscaled, "big", signed=True), places)


def _scaled(unscaled: int, places: int) -> str:
    digits = str(abs(unscaled)).rjust(places + 1, "0")
    whole, fraction = digits[: len(digits) - places], digits[len(digits) - places :]
    return ("-" if unscaled < 0 else "") + whole + ("." + fraction if fraction else "")


def _variable_scale(value: object) -> Value:
    return _decimal(value.get("value"), value.get("scale")) if isinstance(value, dict) else value_text(value)


def _unsigned(value: object) -> Value:
    """BIGINT UNSIGNED as a long: beyond the signed range it comes out negative."""
    return str(value + UNSIGNED_64) if isinstance(value, int) and value < 0 else value_text(value)


def _bits(value: object) -> str:
    """BIT(n): little-endian bytes; a number, as Canal prints it."""
    found = _bytes(value)
    if len(found) > 8:  # noqa: PLR2004 - BIT(64) is the longest
        raise Unconvertible("more bits than a BIT has")
    return str(int.from_bytes(found, "little"))


def _instant(microseconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise Unconvertible("a time beyond the years 1 to 9999") from None


def _date(value: object) -> str:
    return _instant(_whole(value) * 86_400_000_000).date().isoformat()


def _datetime(value: object, microseconds: int, digits: int) -> str:
    """A DATETIME without a zone, as the column held it."""
    instant = _instant(int(_whole(value) * microseconds) if microseconds else _whole(value) // 1000)
    return instant.replace(tzinfo=None).isoformat(" ", "milliseconds" if digits == 3 else "microseconds")  # noqa: PLR2004


def _time(value: object, microseconds: int, digits: int) -> str:
    """A TIME, which in MySQL may be negative and longer than a day."""
    count = int(_whole(value) * microseconds) if microseconds else _whole(value) // 1000
    seconds, fraction = divmod(abs(count), 1_000_000)
    if seconds >= 3_600_000:  # noqa: PLR2004 - MySQL's longest is 838:59:59
        raise Unconvertible("longer than a TIME can be")
    shown = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"
    return ("-" if count < 0 else "") + shown[: len(shown) - 6 + digits]


def _zoned(value: object) -> str:
    """A TIMESTAMP, in UTC."""
    found = _ZONED.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise Unconvertible("no time with its zone")
    try:
        instant = datetime.fromisoformat(f"{found[1]}T{found[2]}{found[4]}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise Unconvertible("no possible time") from None
    return f"{instant.replace(tzinfo=None).isoformat(' ')}{found[3] or ''}"


def _year(value: object) -> str:
    return str(_whole(value))


_DECIMALS: Final = frozenset({"org.apache.kafka.connect.data.Decimal"})
_BY_NAME: Final[Mapping[str | None, Convert]] = {
    "io.debezium.data.VariableScaleDecimal": _variable_scale,
    "io.debezium.data.Bits": _bits,
    "io.debezium.time.Year": _year,
    "io.debezium.time.Date": _date,
    "org.apache.kafka.connect.data.Date": _date,
    "io.debezium.time.Time": partial(_time, microseconds=1000, digits=3),
    "org.apache.kafka.connect.data.Time": partial(_time, microseconds=1000, digits=3),
    "io.debezium.time.MicroTime": partial(_time, microseconds=1, digits=6),
    "io.debezium.time.NanoTime": partial(_time, microseconds=0, digits=6),
    "io.debezium.time.Timestamp": partial(_datetime, microseconds=1000, digits=3),
    "org.apache.kafka.connect.data.Timestamp": partial(_datetime, microseconds=1000, digits=3),
    "io.debezium.time.MicroTimestamp": partial(_datetime, microseconds=1, digits=6),
    "io.debezium.time.NanoTimestamp": partial(_datetime, microseconds=0, digits=6),
    "io.debezium.time.ZonedTimestamp": _zoned,
}
