"""JSON values as MySQL's text for them; numbers digit for digit, never as a float. Pure."""

from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from orders.decoding.mysql_types import Unconvertible, Value

PLAIN_DIGITS_MAX: Final = 40  # what a DECIMAL(36, 18) may need; a larger exponent stays one, so that few bytes don't become many

_encoder: Final = msgspec.json.Encoder(decimal_format="number")


def exact(text: str) -> Decimal:
    """The exact number of a JSON text. Raises ValueError."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("a number out of all bounds") from None


def decimal_text(number: Decimal) -> str:
    """As MySQL writes a DECIMAL: zeros at the end stay, since they are part of what the row says
    (base.decimals.plain takes them off). Without an exponent where that takes few digits.
    """
    return f"{number:f}" if abs(number.adjusted()) <= PLAIN_DIGITS_MAX else str(number)


def number_text(value: object) -> object:
    """A number as its digits, a boolean as MySQL's 0 or 1; anything else unchanged."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    return decimal_text(value) if isinstance(value, Decimal) else value


def value_text(value: object) -> Value:
    """Any JSON value as text; a list or an object stays JSON. Raises Unconvertible."""
    text = number_text(value)
    if text is None or isinstance(text, str):
        return text
    try:
        return _encoder.encode(text).decode()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Unconvertible(str(error) or "nested too deep") from None
