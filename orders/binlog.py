"""Change messages of the counter's database, as rows, in whichever of the known formats. Pure: bytes in, `RowChange`s out, or `UnreadableMessage`.

The format is recognised by the message's shape: a packet of Canal's begins with a protobuf tag that JSON can't begin with; of the JSON ones
Debezium has `op` (or an envelope of `schema` and `payload`), Canal and Maxwell have `type`, in capitals and in small letters.
"""

from typing import Any, Final

import msgspec

from orders.changes import SHOWN_CHARACTERS_MAX, RowChange, UnreadableMessage, place
from orders.formats import canal, canal_protobuf
from orders.formats.numbers import exact

__all__ = ["RowChange", "UnreadableMessage", "decode"]

CANAL_MARK: Final = b'"mysqlType"'  # saves the others a vain attempt, and Canal's messages a second one; decides nothing

_json: Final = msgspec.json.Decoder(float_hook=exact)


def decode(raw: bytes | None) -> list[RowChange]:
    """The changes that a message carries, in its order; none for a tombstone and for messages about no row. Raises UnreadableMessage alone."""
    if raw is None:
        return []
    if raw[:1] in canal_protobuf.FIRST_BYTES:
        return canal_protobuf.decode(raw)
    if CANAL_MARK in raw:
        changes = canal.from_bytes(raw)
        if changes is not None:
            return changes
    return _by_shape(_read(raw), len(raw))


def _read(raw: bytes) -> dict[str, Any]:
    try:
        found = _json.decode(raw)
    except (ValueError, RecursionError) as error:
        complaint = str(error)
        raise UnreadableMessage("json", place(complaint), complaint or type(error).__name__, raw[:SHOWN_CHARACTERS_MAX]) from None
    if not isinstance(found, dict):
        raise UnreadableMessage("json", "message", "no object", found)
    return found


def _by_shape(found: dict[str, Any], size: int) -> list[RowChange]:
    return canal.from_json(found, size)
