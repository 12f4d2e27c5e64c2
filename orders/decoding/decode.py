"""Decodes change messages of the counter's database, in any of the known formats. Pure: bytes in,
`RowChange`s out, or `UnreadableMessage`.

The format is recognised by the message's shape. A Canal packet begins with a protobuf tag that JSON
can't begin with. Canal's and Maxwell's JSON have `type`, in upper and in lower case. Debezium's has
`op` instead, possibly in an envelope of `schema` and `payload`.
"""

from typing import Any, Final

import msgspec

from orders.decoding import canal, canal_protobuf, debezium, maxwell
from orders.decoding.changes import SHOWN_CHARACTERS_MAX, RowChange, UnreadableMessage, error_location
from orders.decoding.values import exact

__all__ = ["RowChange", "UnreadableMessage", "decode"]

TOMBSTONE: Final = b"null"  # a null value, as a JSON serializer sends it
CANAL_MARK: Final = b'"mysqlType"'  # only for speed: spares other formats an attempt to parse them as Canal's, and Canal's a second parse

_json: Final = msgspec.json.Decoder(float_hook=exact)


def decode(raw: bytes | None) -> list[RowChange]:
    """The changes in a message, in its order; none for a tombstone and for messages that aren't
    about a row. Raises no other error than UnreadableMessage.
    """
    if raw is None or raw == TOMBSTONE:
        return []
    if raw[:1] in canal_protobuf.FIRST_BYTES:
        return canal_protobuf.decode(raw)
    changes = canal.from_bytes(raw) if CANAL_MARK in raw else None
    if changes is None and debezium.ENVELOPE_MARK in raw:
        changes = debezium.from_bytes(raw)
    return _by_shape(_read(raw), len(raw)) if changes is None else changes


def _read(raw: bytes) -> dict[str, Any]:
    try:
        found = _json.decode(raw)
    except (ValueError, RecursionError) as error:
        problem = str(error)
        raise UnreadableMessage("json", error_location(problem), problem or type(error).__name__, raw[:SHOWN_CHARACTERS_MAX]) from None
    if not isinstance(found, dict):
        raise UnreadableMessage("json", "message", "no object", found)
    return found


def _by_shape(found: dict[str, Any], size: int) -> list[RowChange]:
    kind = found.get("type")
    if kind is None:
        return debezium.from_json(found)
    return maxwell.from_json(found) if isinstance(kind, str) and kind.islower() else canal.from_json(found, size)
