"""Change messages of the counter's database, as rows, in whichever of the known formats. Pure:
bytes in, `RowChange`s out, or `UnreadableMessage`.

The format is recognised by the message's shape: a packet of Canal's begins with a protobuf tag that
JSON can't begin with; of the JSON ones Canal and Maxwell have `type`, in capitals and in small
letters, Debezium has none but `op`, perhaps in an envelope of `schema` and `payload`.
"""

from typing import Any, Final

import msgspec

from orders.decoding import canal, canal_protobuf, debezium, maxwell
from orders.decoding.changes import SHOWN_CHARACTERS_MAX, RowChange, UnreadableMessage, place
from orders.decoding.values import exact

__all__ = ["RowChange", "UnreadableMessage", "decode"]

TOMBSTONE: Final = b"null"  # None, by a sender of JSON
CANAL_MARK: Final = b'"mysqlType"'  # saves the others a vain attempt, and Canal's messages a second one; decides nothing

_json: Final = msgspec.json.Decoder(float_hook=exact)


def decode(raw: bytes | None) -> list[RowChange]:
    """The changes that a message carries, in its order; none for a tombstone and for messages about
    no row. Raises UnreadableMessage alone.
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
        complaint = str(error)
        raise UnreadableMessage("json", place(complaint), complaint or type(error).__name__, raw[:SHOWN_CHARACTERS_MAX]) from None
    if not isinstance(found, dict):
        raise UnreadableMessage("json", "message", "no object", found)
    return found


def _by_shape(found: dict[str, Any], size: int) -> list[RowChange]:
    kind = found.get("type")
    if kind is None:
        return debezium.from_json(found)
    return maxwell.from_json(found) if isinstance(kind, str) and kind.islower() else canal.from_json(found, size)
