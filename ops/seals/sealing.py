"""How a seal is made: by one snapshot of the database, and not by ids alone.

A row with a smaller id may commit later than one with a larger. So a seal names the ids up to its
largest that no row has, and the next seals look there again, until a snapshot shows that every
transaction has ended that was in flight when the gap was found. Whatever has such an id after that
was put there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from django.conf import settings
from django.db import connection

from base.fence import Fence, fenced
from base.models import Seal
from base.seal_key import name_of, private_key, sign
from clearing.store.recovery import DATABASE_SELF
from ops.seals.chain import FIRST, Contents, Gap, Sealed, read_contents, root_of
from ops.seals.ids import Ids
from ops.seals.rows import SOURCES, Source, block_hashes, columns_of, read, snapshot

ROWS_MAX: Final = 50_000  # of a table in one seal: what is more is left to the next one
_NOW: Final = (
    "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint, (extract(epoch FROM t) * 1000)::bigint,"  # noqa: S608 - ours
    f" to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), {DATABASE_SELF} FROM pg_current_snapshot() s, service_now() t"
)
_INSERT: Final = """
    INSERT INTO base_seal (number, text, root, key, signature)
    SELECT %s, %s, %s, %s, %s WHERE coalesce((SELECT max(number) FROM base_seal), 0) = %s ON CONFLICT (number) DO NOTHING RETURNING number
"""


@dataclass(frozen=True, slots=True)
class Moment:
    """A snapshot: all transactions before `xmin` have ended, none from `xmax` on had begun."""

    xmin: int
    xmax: int
    at_ms: int
    at: str
    database: str


def make_seal(fence: Fence, before: Seal | None) -> Seal | None:
    """Stores the seal that follows; None if nothing was appended, or somebody else was first."""
    with snapshot() as cursor:
        contents = draft(cursor, before)
    if not contents.rows:
        return None
    seal = signed(contents)
    with fenced(fence), connection.cursor() as cursor:
        signature = None if seal.signature is None else bytes(seal.signature)
        cursor.execute(_INSERT, [seal.number, seal.text, seal.root, seal.key, signature, seal.number - 1])
        return seal if cursor.fetchone() else None


def signed(contents: Contents) -> Seal:
    """The seal of these contents, not stored yet; signed where a key is set."""
    seal = Seal(number=contents.number, text=contents.text, root=root_of(contents.text))
    if settings.SEAL_KEY:
        key = private_key(settings.SEAL_KEY)
        seal.key, seal.signature = name_of(key.public_key()), sign(key, seal.root)
    return seal


def draft(cursor: Any, before: Seal | None) -> Contents:
    """What the next seal says, as the snapshot shows it."""
    cursor.execute(_NOW)
    moment = Moment(*cursor.fetchone())
    last = Contents(FIRST - 1, "", moment.database, "") if before is None else read_contents(before.text)
    sources = {}
    for source in SOURCES:
        sealed = last.sources.get(source.name, Sealed())
        if last.database != moment.database:  # what was in flight in another one, before a restore or a failover, never comes
            sealed = replace(sealed, gaps=tuple(replace(gap, xmax=0, at_ms=0) for gap in sealed.gaps))
        sources[source.name] = _sealed(cursor, source, sealed, moment)
    return Contents(last.number + 1, moment.at, moment.database, "" if before is None else before.root, sources)


def _sealed(cursor: Any, source: Source, last: Sealed, moment: Moment) -> Sealed:
    columns = columns_of(cursor, source)
    through = _through(cursor, source, last.through)
    found = Ids.of(_ids(cursor, source, last.may_come, last.through, through))
    hashes = tuple(value for _, value in block_hashes(found, _rows(cursor, source, columns, found)))
    return Sealed(through, tuple(columns), found.text, hashes, tuple(_gaps(cursor, source, last, found, through, moment)))


def _through(cursor: Any, source: Source, last: int) -> int:
    cursor.execute(
        f"SELECT max(id) FROM (SELECT id FROM {source.table} WHERE id > %s AND {source.final} ORDER BY id LIMIT {ROWS_MAX}) t",  # noqa: S608
        [last],
    )
    return int(cursor.fetchone()[0] or last)


def _ids(cursor: Any, source: Source, may_come: Ids, last: int, through: int) -> Iterator[int]:
    first, behind = may_come.bounds
    cursor.execute(
        f"SELECT id FROM {source.table} WHERE {source.final} AND id BETWEEN %s AND %s AND id::bigint <@ %s::int8multirange"  # noqa: S608
        f" UNION ALL SELECT id FROM {source.table} WHERE {source.final} AND id > %s AND id <= %s",
        [first, behind, may_come.multirange, last, through],
    )
    return (pk for (pk,) in cursor.fetchall())


def _rows(cursor: Any, source: Source, columns: list[str], ids: Ids) -> Iterator[tuple[int, str]]:
    first, last = ids.bounds
    return read(cursor, source, columns, above=first - 1, through=last, among=ids)


def _gaps(cursor: Any, source: Source, last: Sealed, found: Ids, through: int, moment: Moment) -> Iterator[Gap]:
    """The ids that may still come: those of gaps that aren't old enough, of new ones, and rows that
    aren't final yet.
    """
    for gap in last.gaps:
        left = Ids.read(gap.ids) - found
        if left and not _is_over(gap, moment):
            yield replace(gap, ids=left.text)
    cursor.execute(f"SELECT id FROM {source.table} WHERE id <= %s AND NOT ({source.final})", [through])  # noqa: S608
    new = Ids.of_runs([(last.through + 1, through + 1)]) - found | Ids.of(pk for (pk,) in cursor.fetchall())
    if new:
        yield Gap(new.text, moment.xmax, moment.at_ms)


def _is_over(gap: Gap, moment: Moment) -> bool:
    """Whether whoever may have drawn these ids has ended. An id is drawn just before a transaction
    gets its number, so that one with a later number may have drawn it: three times as long as a
    transaction may take is waited as well.
    """
    waited_ms = 3 * max(20_000, int(settings.DATABASE_SESSION["transaction_timeout"]))
    return moment.xmin >= gap.xmax and moment.at_ms - gap.at_ms >= waited_ms
