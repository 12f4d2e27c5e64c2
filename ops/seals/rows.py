"""Rows of history as the text that is hashed: the same whatever the session's settings are, after a
dump and its restore, and after a migration that adds a column.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from django.db import connection, transaction

from ops.history import HISTORY
from ops.seals.ids import Ids

BLOCK_ROWS: Final = 100  # so many share a hash: as closely a changed row is named
_PAGE_ROWS: Final = 2_000
_COLUMNS: Final = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attname"


@dataclass(frozen=True, slots=True)
class Source:
    """Rows that are sealed: all of a table, without the columns that may still change; or those of
    which `final` is true, with all columns.
    """

    name: str
    table: str
    changing: tuple[str, ...] = ()
    final: str = "true"


# What two people decided, and when a right ended, is as much of the history as its beginning. An
# order's `late` isn't: nearly all would wait for it for ever.
DECIDED: Final = ("clearing_intervention", "base_grant")


def _sources() -> Iterator[Source]:
    for table, kept in HISTORY.items():
        if table == "base_seal":
            continue
        yield Source(table, table, kept.columns)
        if table in DECIDED:
            begun = "NULL" if kept.value is None else f"'{kept.value}'"
            yield Source(f"{table}:decided", table, final=f"{kept.column}::text IS DISTINCT FROM {begun}")


SOURCES: Final = tuple(_sources())


@contextmanager
def snapshot() -> Iterator[Any]:
    """A cursor that sees one moment, with the settings that decide on texts. Each statement has its
    limit, their number has none.
    """
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(
            "SELECT set_config('TimeZone', 'UTC', true), set_config('bytea_output', 'hex', true), set_config('IntervalStyle', 'iso_8601', true),"
            " set_config('transaction_timeout', '0', true)"
        )
        yield cursor


def columns_of(cursor: Any, source: Source) -> list[str]:
    """Those that are sealed, as the table has them now."""
    cursor.execute(_COLUMNS, [source.table])
    return [name for (name,) in cursor.fetchall() if name not in source.changing]


def read(cursor: Any, source: Source, columns: Sequence[str], *, above: int, through: int, among: Ids | None = None) -> Iterator[tuple[int, str]]:
    """(id, text) of the rows with above < id <= through, of `among` where it is given, by id."""
    names = ", ".join(f'"{column}"' for column in columns)
    listed = "" if among is None else " AND id::bigint <@ %s::int8multirange"
    sql = (
        f"SELECT id, jsonb_build_array({names})::text FROM {source.table}"  # noqa: S608 - names of our tables, quoted
        f" WHERE id > %s AND id <= %s{listed} AND {source.final} ORDER BY id LIMIT {_PAGE_ROWS}"
    )
    while True:
        cursor.execute(sql, [above, through, *([] if among is None else [among.multirange])])
        found = cursor.fetchall()
        yield from found
        if len(found) < _PAGE_ROWS:
            return
        above = found[-1][0]


def block_hashes(ids: Ids, rows: Iterator[tuple[int, str]]) -> Iterator[tuple[Ids, str]]:
    """Hashes over each BLOCK_ROWS of the ids, with the ids; what isn't among the rows is left
    out.
    """
    block: list[int] = []
    texts: dict[int, str] = {}
    row = next(rows, None)
    for pk in ids:
        block.append(pk)
        if row is not None and row[0] == pk:
            texts[pk] = row[1]
            row = next(rows, None)
        if len(block) == BLOCK_ROWS:
            yield Ids.of(block), hash_of(texts)
            block, texts = [], {}
    if block:
        yield Ids.of(block), hash_of(texts)


def hash_of(texts: dict[int, str]) -> str:
    """Of rows by id, in their order. A row's text has no line break: JSON escapes them."""
    return sha256("\n".join(f"{pk} {text}" for pk, text in texts.items()).encode()).hexdigest()
