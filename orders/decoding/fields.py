"""Reads the fields of the untyped JSON formats. Pure."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from orders.decoding.changes import SHOWN_CHARACTERS_MAX, RowValues, UnreadableMessage
from orders.decoding.mysql_types import Unconvertible, Value
from orders.decoding.values import value_text

Convert = Callable[[Any], Value]

MILLISECONDS_MAX: Final = 10**15


def text(source_format: str, found: Mapping[str, Any], name: str) -> str:
    """The field's text, empty where it is null or absent. Raises UnreadableMessage."""
    value = found.get(name)
    if value is None or isinstance(value, str):
        return value or ""
    raise UnreadableMessage(source_format, name, "no text", value)


def number(value: object) -> int | None:
    """A time in milliseconds; None where there is none, or an impossible one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MILLISECONDS_MAX else None


def row(source_format: str, found: object, part: str, converters: Mapping[str, Convert], otherwise: Convert = value_text) -> RowValues:
    """The row's values, by its columns' converters, or by `otherwise`. Raises UnreadableMessage."""
    if not isinstance(found, dict) or not found:
        raise UnreadableMessage(source_format, part, "no row", found)
    values: RowValues = {}
    for name, value in found.items():
        convert = converters.get(name)
        if value is None or (convert is None and isinstance(value, str)):
            values[name] = value
            continue
        try:
            values[name] = (convert or otherwise)(value)
        except Unconvertible as error:
            raise UnreadableMessage(source_format, f"{part}.{name[:SHOWN_CHARACTERS_MAX]}", str(error), value) from None
    return values
