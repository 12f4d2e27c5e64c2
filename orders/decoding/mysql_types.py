"""Converts a MySQL column's printed value, by the column's type as the source spells it. Pure.

Canal prints ENUM as a 1-based index and SET as a bit mask, binary columns as one Latin-1 character
for each byte, and MariaDB's JSON as the Latin-1 characters of its UTF-8 bytes. Types are spelled in
two ways ("BIGINT unsigned", "bigint(20) unsigned").
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

Value = str | bytes | None
Converter = Callable[[str], str | bytes]

TYPE_LENGTH_CACHED_MAX: Final = 2_000  # longer ones are parsed each time: the cache must not hold a hostile message's megabytes
NUMBER_LENGTH_MAX: Final = 20  # digits of the largest mask of 64 labels
BINARY: Final = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
SPATIAL: Final = frozenset({
    "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection", "geomcollection",
})  # fmt: skip

_WORD: Final = re.compile(r"\s*([A-Za-z]+)\s*(\()?\s*")
_LABEL: Final = re.compile(r"\s*'((?:[^'\\]|''|\\.)*+)'\s*([,)])", re.DOTALL)
_ESCAPE: Final = re.compile(r"''|\\(.)", re.DOTALL)
_ESCAPED: Final = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "b": "\b", "Z": "\x1a"}


class Unconvertible(ValueError):  # noqa: N818 - named by what it reports
    """The value, or the type's own text, isn't what such a column holds."""


def converter(mysql_type: str) -> Converter | None:
    """The converter for printed values of this type; None where the text is the value. Raises
    Unconvertible for a malformed type.
    """
    return _cached(mysql_type) if len(mysql_type) <= TYPE_LENGTH_CACHED_MAX else _converter(mysql_type)


def _converter(mysql_type: str) -> Converter | None:
    found = _WORD.match(mysql_type)
    name = found[1].lower() if found else ""
    if found and name in {"enum", "set"} and found[2]:
        labels = _labels(mysql_type, found.end())
        return _Enum(labels) if name == "enum" else _Set(labels)
    if name in BINARY or name in SPATIAL:
        return _binary
    return _json if name == "json" else None


_cached: Final = lru_cache(maxsize=512)(_converter)


def _labels(mysql_type: str, position: int) -> tuple[str, ...]:
    labels: list[str] = []
    while found := _LABEL.match(mysql_type, position):
        labels.append(_ESCAPE.sub(_unescaped, found[1]))
        if found[2] == ")":
            return tuple(labels)
        position = found.end()
    raise Unconvertible("labels that can't be read")


def _unescaped(found: re.Match[str]) -> str:
    return "'" if found[1] is None else _ESCAPED.get(found[1], found[1])


def _number(text: str, largest: int) -> int | None:
    """The number that `text` is, or None where it is a label already."""
    if not (text.isascii() and text.isdigit()):
        return None
    number = int(text) if len(text) <= NUMBER_LENGTH_MAX else largest + 1
    if number > largest:
        raise Unconvertible(f"no label has this number, the last is {largest}")
    return number


class _Enum:
    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = ("", *labels)  # 0 is MySQL's value for an invalid label

    def __call__(self, text: str) -> str:
        number = _number(text, len(self._labels) - 1)
        if number is not None:
            return self._labels[number]
        if text not in self._labels:
            raise Unconvertible("not a label of the ENUM")
        return text


class _Set:
    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels

    def __call__(self, text: str) -> str:
        mask = _number(text, (1 << len(self._labels)) - 1)
        if mask is not None:
            return ",".join(label for bit, label in enumerate(self._labels) if mask >> bit & 1)
        if any(label not in self._labels for label in text.split(",") if label):
            raise Unconvertible("not labels of the SET")
        return text


def _binary(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise Unconvertible("a character that is no byte in a binary column") from None


def _json(text: str) -> str:
    """If the characters are the bytes of valid UTF-8: the text that those bytes encode. Otherwise
    the text is the value already.
    """
    if text.isascii():
        return text
    try:
        return text.encode("latin-1").decode()
    except ValueError:
        return text
