"""The counter's interface: lists its shards, and returns each shard's orders, from either of its
two tables, in pages sorted by (milliseconds, id).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn, Protocol

from base.http import HttpError, SignedClient

DIGITS_MAX = 19


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
    """Rows of one shard; `following` is None after the last page. Numbers in rows are texts, digit
    for digit.
    """

    now_ms: int
    rows: tuple[Mapping[str, Any], ...]
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
        return Shards(tuple(_integer("shards", shard) for shard in shards), _integer("now_ms", found.get("now_ms")))

    def page(self, shard: int, after_ms: int, after_id: int, limit: int) -> Page:
        return self.rows(Table.SYNC_ORDERS, shard, Position(after_ms, after_id), limit)

    def rows(self, table: Table, shard: int, after: Position, limit: int) -> Page:
        """A page of a table: the rows after a position."""
        found = self._get(f"/v1/{table}?shard={shard}&after_ms={after.ms}&after_id={after.id}&limit={limit}")
        rows, following = found.get("rows"), found.get("next")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            _unreadable("rows", rows)
        return Page(_integer("now_ms", found.get("now_ms")), tuple(rows), None if following is None else _position(following))

    def counts(self, table: Table, shard: int, from_ms: int, to_ms: int) -> Counts:
        """How many rows a table has from `from_ms` up to, and without, `to_ms`; at most 24 h."""
        minutes = self._get(f"/v1/{table}/counts?shard={shard}&from_ms={from_ms}&to_ms={to_ms}").get("minutes")
        if not isinstance(minutes, list):
            _unreadable("minutes", minutes)
        return Counts(dict(_minute(minute) for minute in minutes))

    def _get(self, path: str) -> dict[str, Any]:
        try:
            answer = self._client.request("GET", path, deadline_ms=self._deadline_ms, timestamp_ms=self._now_ms())
        except HttpError as error:
            raise InterfaceFailed(f"{path}: {error}") from error
        if answer.status != 200:  # noqa: PLR2004 - HTTP OK
            raise InterfaceFailed(f"{path}: status {answer.status}: {answer.body[:200].decode(errors='replace')}")
        return _object(answer.body)


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
    return _integer("minute_ms", value.get("minute_ms")), {kind: _integer("kinds", rows) for kind, rows in kinds.items()}


def _position(value: object) -> Position:
    if not isinstance(value, dict):
        _unreadable("next", value)
    return Position(_integer("next.ms", value.get("ms")), _integer("next.id", value.get("id")))


def _integer(field: str, value: object) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > DIGITS_MAX:
        _unreadable(field, value)
    return int(value)


def _unreadable(field: str, value: object) -> NoReturn:
    raise InterfaceFailed(f"{field} can't be read: {str(value)[:100]!r}")
