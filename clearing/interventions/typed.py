"""Amounts as people type them: digits and one point, nothing else. Pure.

What could be read in two ways is refused, and both readings are shown: half of the world writes
0,320 for what the other half takes for 320.
"""

import re
from decimal import Decimal
from typing import Final

from django.conf import settings

from clearing.flow.amounts import fits_scale

WRITE_SO: Final = "write it with a point and without separators"
SHOWN_MAX: Final = 60  # characters
_PLAIN: Final = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?", re.ASCII)
_SEPARATED: Final = re.compile(r"[0-9]+([^0-9A-Za-z+-][0-9]+)+", re.ASCII)  # whatever the separators are
_SEPARATOR: Final = re.compile(r"[^0-9]")


class Unclear(ValueError):  # noqa: N818 - an answer to a person
    """What was typed isn't one amount; the text says how it could be read, or what to write."""


def read_amount(text: str, asset: str) -> Decimal:
    """The amount of the asset that was typed. Raises Unclear."""
    if not _PLAIN.fullmatch(text):
        raise Unclear(_why(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"))
    amount = Decimal(text)
    if not fits_scale(amount, asset):
        raise Unclear(f"{asset} has {settings.ASSET_SCALES[asset]} decimals, and {text} has more: a digit too many, or the point in the wrong place?")
    return amount


def _why(text: str) -> str:
    if _SEPARATED.fullmatch(text):
        first, second = readings(text)
        return f'"{text}" could be {first} or {second}: {WRITE_SO}'
    if re.fullmatch(r"0[0-9]+(\.[0-9]*)?", text, re.ASCII):
        return f'"{text}" begins with 0 and could be {text[0]}.{text[1:].replace(".", "")} or {_trimmed(text)}: {WRITE_SO}'
    if re.fullmatch(r"\.[0-9]+|[0-9]+\.", text, re.ASCII):
        return f'"{text}" begins or ends with its point: write digits on both sides of it'
    return f'"{text}" is no amount: digits and one point alone, at most 18 digits on either side of it'


def readings(text: str) -> tuple[str, str]:
    """The two readings of digits with separators among them: the last one as the point and the
    others between thousands; and all of them between thousands, or, where the last one surely is
    the point, the first one as the point.
    """
    groups = _SEPARATOR.split(text)
    last_is_point = _trimmed(f"{''.join(groups[:-1])}.{groups[-1]}")
    none_is_point = _trimmed("".join(groups))
    is_mixed = len(set(_SEPARATOR.findall(text))) > 1
    return last_is_point, _trimmed(f"{groups[0]}.{''.join(groups[1:])}") if is_mixed else none_is_point


def _trimmed(text: str) -> str:
    """Without zeros that stand before its digits."""
    return re.sub(r"^0+(?=[0-9])", "", text)
