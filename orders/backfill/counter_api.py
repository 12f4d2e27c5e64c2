"""The counter's interface: lists its shards, and returns each shard's orders, from either of its
two tables, in pages sorted by (milliseconds, id).

Whatever is answered, the callers get what they can compute with, store and show: rows are flat,
numbers lie within bounds, texts have no NUL. Everything else is InterfaceFailed.
"""

import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn, Protocol

from base.http import HttpError, SignedClient

DIGITS_MAX: Final = 19
TIME_MS_MAX: Final = 253_402_300_799_999  # the year 9999
SHARDS_MAX: Final = 10_000
SHARD_MAX: Final = 2**31 - 1
ROWS_MAX: Final = 10**9  # that a table may have in one minute
MINUTE_MS: Final = 60_000
VALUE_CHARACTERS_MAX: Final = 1_000  # of one value of a row; no column of the contract comes near it
PAGES_MAX: Final = 200  # that a periodic pass reads of a shard, or of one minute: a counter that always names a next page keeps nobody


Row = Mapping[str, str | bool | None]


class InterfaceFailed(Exception):  # noqa: N818 - named by what it reports
    """The counter gave no usable response; the text says why."""


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to and including this row was read; rows come in the order of (ms, id)."""

    ms: int
    id: int


@dataclass(frozen=True, slots=True)
class Shards:
    """The counter's shards, and its clock at the time of the response."""

    shards: tuple[int, ...]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one shard, as `readable_row` gives them; `following` is None after the last page."""

    now_ms: int
    rows: tuple[Row, ...]
    following: Position | None


class Table(StrEnum):
    """The counter's two tables, by their paths. The second is the independent source: it also has
    orders that never got a sync-order row.
    """

    SYNC_ORDERS = "sync-orders"
    ORDERS = "orders"


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by minute (its first millisecond) and kind; minutes without rows are left out."""

    minutes: Mapping[int, Mapping[str, int]]


class CounterTables(Protocol):
    """The requests that reconcile makes to the counter. Each raises InterfaceFailed."""

    def shards(self) -> Shards: ...

    def counts(self, table: Table, shard: int, from_ms: int, to_ms: int) -> Counts: ...

    def rows(self, table: Table, shard: int, after: Position, limit: int) -> Page: ...


class SyncOrderInterface(Protocol):
    """The requests that gap compensation makes to the counter. Each raises InterfaceFailed."""

    def shards(self) -> Shards: ...

    def page(self, shard: int, after_ms: int, after_id: int, limit: int) -> Page: ...


def next_position(page: Page, position: Position) -> Position | None:
    """Where the page after this one begins; None after the last. `position` is where the page was
    read from. Raises InterfaceFailed if the next page would not lie behind it: reading would never
    end.
    """
    following = page.following
    if following is not None and (following.ms, following.id) <= (position.ms, position.id):
        raise InterfaceFailed(f"the page after {position} is followed by {following}")
    return following


class HttpSyncOrderInterface:
    """The interface by HTTP (docs/contracts/). Requests are signed with the time `now_ms`."""

    def __init__(self, client: SignedClient, *, deadline_ms: int, now_ms: Callable[[], int]) -> None:
        self._client = client
        self._deadline_ms = deadline_ms
        self._now_ms = now_ms

    def shards(self) -> Shards:
        found = self._get("/v1/shards")
        shards = found.get("shards")
        if not isinstance(shards, list):
            _unreadable("shards", shards)
        if len(shards) > SHARDS_MAX:
            raise InterfaceFailed(f"{len(shards)} shards are listed, and {SHARDS_MAX} are taken at most")
        return Shards(tuple({_integer("shards", shard, SHARD_MAX) for shard in shards}), _now_ms(found))

    def page(self, shard: int, after_ms: int, after_id: int, limit: int) -> Page:
        return self.rows(Table.SYNC_ORDERS, shard, Position(after_ms, after_id), limit)

    def rows(self, table: Table, shard: int, after: Position, limit: int) -> Page:
        """A page of a table: the rows after a position."""
        found = self._get(f"/v1/{table}?shard={shard}&after_ms={after.ms}&after_id={after.id}&limit={limit}")
        rows, following = found.get("rows"), found.get("next")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            _unreadable("rows", rows)
        return Page(_now_ms(found), tuple(map(readable_row, rows)), None if following is None else _position(following))

    def counts(self, table: Table, shard: int, from_ms: int, to_ms: int) -> Counts:
        """How many rows a table has from `from_ms` up to, and without, `to_ms`; at most 24 h."""
        minutes = self._get(f"/v1/{table}/counts?shard={shard}&from_ms={from_ms}&to_ms={to_ms}").get("minutes")
        if not isinstance(minutes, list):
            _unreadable("minutes", minutes)
        counted = dict(_minute(minute) for minute in minutes)
        if not all(at % MINUTE_MS == 0 and from_ms - MINUTE_MS < at < to_ms for at in counted):
            _unreadable("minutes", minutes)
        return Counts(counted)

    def _get(self, path: str) -> dict[str, Any]:
        try:
            answer = self._client.request("GET", path, deadline_ms=self._deadline_ms, timestamp_ms=self._now_ms())
        except HttpError as error:
            raise InterfaceFailed(f"{path}: {error}") from error
        if answer.status != 200:  # noqa: PLR2004 - HTTP OK
            raise InterfaceFailed(f"{path}: status {answer.status}: {answer.body[:200]!r}")
        return _object(answer.body)


def readable_row(row: Mapping[str, Any]) -> Row:
    """The row, flat: texts, truth values and nulls. Numbers are texts, digit for digit; of a nested
    value, or of a text that is longer than any column, as much is kept as shows what came.
    """
    return {name[:VALUE_CHARACTERS_MAX]: _flat(value) for name, value in row.items()}


def _flat(value: object) -> str | bool | None:
    if value is None or isinstance(value, bool):
        return value
    return (value if isinstance(value, str) else reprlib.repr(value))[:VALUE_CHARACTERS_MAX]


def storable(text: str) -> str:
    """The text as PostgreSQL can store it, in a column or in JSON: without NULs and lone
    surrogates.
    """
    return text.replace("\x00", "\\0").encode("utf-8", "backslashreplace").decode()


def _object(body: bytes) -> dict[str, Any]:
    """Parses a JSON object. Numbers and NaN stay texts, and lone surrogates are let through, so
    that one odd row doesn't make its whole page unreadable.
    """
    try:
        parsed = json.loads(body, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise InterfaceFailed(f"the response isn't JSON: {type(error).__name__}: {body[:200]!r}") from None
    if not isinstance(parsed, dict):
        _unreadable("answer", parsed)
    return parsed


def _minute(value: object) -> tuple[int, dict[str, int]]:
    kinds = value.get("kinds") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kinds, dict):
        _unreadable("minutes", value)
    return _integer("minute_ms", value.get("minute_ms")), {kind: _integer("kinds", rows, ROWS_MAX) for kind, rows in kinds.items()}


def _position(value: object) -> Position:
    if not isinstance(value, dict):
        _unreadable("next", value)
    return Position(_integer("next.ms", value.get("ms")), _integer("next.id", value.get("id")))


def _now_ms(found: Mapping[str, Any]) -> int:
    return _integer("now_ms", found.get("now_ms"), TIME_MS_MAX)


def _integer(field: str, value: object, largest: int = 10**DIGITS_MAX) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > DIGITS_MAX or int(value) > largest:
        _unreadable(field, value)
    return int(value)


def _unreadable(field: str, value: object) -> NoReturn:
    raise InterfaceFailed(f"{field} can't be read: {reprlib.repr(value)[:100]}")
