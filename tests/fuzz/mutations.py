"""Ways to spoil a message: blindly, and by its structure, so that the spoiled part is reached."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

from google.protobuf.message import DecodeError

from orders.decoding import canal_pb2 as pb

COUNTS = [1, 1, 1, 2, 4]  # of mutations; mostly one, so that much of the message stays as it was
TOKENS = [
    b"null", b"true", b"{}", b"[]", b'""', b"-1", b"NaN", b"1e999999999", b"1E-999999999999999999999", b"9" * 400, b"18446744073709551616", b"0.1e40",
    b'"\\ud800"', b'"\\u0000"', b"\xff", b"\xed\xa0\x80", b"[" * 2_000, b'{"a":' * 500, b'"op"', b'"type"', b'"payload"', b'"mysqlType"', b"\x00",
    b"\x80" * 11, b"\xff\xff\xff\xff\x0f", b"\x12\x00" * 200, b"\x0a\x7f", b"SET('", b"ENUM('a',", b"=" * 7,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 2**63, 2**64, 1.5, 1e300, "", "0", "1", "-5", "9" * 5_000, "é€", "AA==", "=", "\x00", [], [[]], ["a"], [None], {}, {"a": 1},
    "ENUM('a','b')", "SET('a','b')", "BLOB", "JSON", "insert", "INSERT", "u", "d", "table-alter", 10**18, "2026-13-01", "0001-01-01T00:00:00+14:00",
]  # fmt: skip

Mutate = Callable[[Random, bytes, bytes], bytes]


def mutated(random: Random, raw: bytes, other: bytes) -> bytes:
    """The message with one or a few parts spoiled; `other` is one to take parts from."""
    for _ in range(random.choice(COUNTS)):
        raw = random.choice(MUTATIONS)(random, raw, other)
    return raw


def _slice(random: Random, raw: bytes) -> tuple[int, int]:
    start = random.randint(0, len(raw))
    return start, min(len(raw), start + random.choice([0, 1, 2, 8, 100]))


def _flip(random: Random, raw: bytes, _other: bytes) -> bytes:
    if not raw:
        return raw
    at = random.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << random.randrange(8)]) + raw[at + 1 :]


def _cut(random: Random, raw: bytes, _other: bytes) -> bytes:
    start, end = _slice(random, raw)
    return raw[:start] + raw[end:]


def _truncate(random: Random, raw: bytes, _other: bytes) -> bytes:
    return raw[: random.randint(0, len(raw))]


def _repeat(random: Random, raw: bytes, _other: bytes) -> bytes:
    start, end = _slice(random, raw)
    return raw[:start] + raw[start:end] * random.randint(2, 9) + raw[end:]


def _splice(random: Random, raw: bytes, other: bytes) -> bytes:
    (start, end), (from_, to) = _slice(random, raw), _slice(random, other)
    return raw[:start] + other[from_:to] + raw[end:]


def _token(random: Random, raw: bytes, _other: bytes) -> bytes:
    start, end = _slice(random, raw)
    return raw[:start] + random.choice(TOKENS) + raw[end:]


def _inside(random: Random, raw: bytes, other: bytes) -> bytes:
    """By structure: of JSON a node, of a packet an entry, with the lengths around it right."""
    if raw[:1] == b"{":
        return _json(random, raw)
    try:
        packet = pb.Packet.FromString(raw)
        messages = pb.Messages.FromString(packet.body)
    except DecodeError:
        return raw
    if messages.messages:
        at = random.randrange(len(messages.messages))
        messages.messages[at] = _entry(random, messages.messages[at], other)
    packet.body = messages.SerializeToString()
    return packet.SerializeToString()


def _entry(random: Random, raw: bytes, other: bytes) -> bytes:
    blindly = random.choice(BLIND)
    try:
        entry = pb.Entry.FromString(raw)
        change = pb.RowChange.FromString(entry.store_value)
    except DecodeError:
        return blindly(random, raw, other)
    columns = [column for row in change.rows for column in (*row.before, *row.after)]
    if not columns or random.random() < 0.5:
        entry.store_value = blindly(random, entry.store_value, other)
    else:
        column = random.choice(columns)
        name = random.choice(["value", "mysql_type", "name"])
        setattr(column, name, str(random.choice(VALUES)))
        entry.store_value = change.SerializeToString()
    return entry.SerializeToString()


def _json(random: Random, raw: bytes) -> bytes:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    places = list(_places(found))
    if not places:
        return raw
    holder, key = random.choice(places)
    if isinstance(holder, dict) and random.random() < 0.2:
        del holder[key]
    else:
        holder[key] = random.choice(VALUES)
    return json.dumps(found).encode()


def _places(found: Any) -> Any:
    """Every place of a value in it, as (holder, key)."""
    pending = [found]
    while pending:
        holder = pending.pop()
        items = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, value in list(items):
            yield holder, key
            pending.append(value)


BLIND: list[Mutate] = [_flip, _cut, _truncate, _repeat, _splice, _token]
MUTATIONS: list[Mutate] = [*BLIND, _inside, _inside, _inside, _inside]
