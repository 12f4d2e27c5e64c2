"""Holds the chain of seals against itself, and against the rows: what was changed, removed or put
there since it was sealed, and what no seal covers yet.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db import models

from base.models import Seal
from base.seal_key import is_signed
from ops.seals.chain import FIRST, Contents, flaws, read_contents
from ops.seals.ids import Ids
from ops.seals.rows import BLOCK_ROWS, SOURCES, Source, block_hashes, columns_of, read, snapshot

PAGE_SEALS: Final = 50  # in one snapshot
NAMED_MAX: Final = 20  # ids of a finding
FINDINGS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that nobody of the service does. `what`: chain, signature, changed, missing,
    inserted.
    """

    what: str
    seal: int
    table: str = ""
    ids: tuple[int, ...] = ()
    detail: str = ""


@dataclass(slots=True)
class Report:
    """What was found. `not_covered`: rows by table that are newer than the newest seal."""

    findings: list[Finding] = field(default_factory=list)
    seals: int = 0
    rows: int = 0
    root: str = ""
    unsigned: int = 0
    not_covered: dict[str, int] = field(default_factory=dict)
    is_shorter: bool = False

    @property
    def tampered(self) -> bool:
        return bool(self.findings)


def row_findings(cursor: Any, contents: Contents) -> Iterator[Finding]:
    """What isn't as it was sealed, of the rows of one seal."""
    for source in SOURCES:
        sealed = contents.sources.get(source.name)
        if sealed is None or not sealed.ids:
            continue
        if gone := set(sealed.columns) - set(columns_of(cursor, source)):
            yield Finding("changed", contents.number, source.name, detail=f"columns are gone: {', '.join(sorted(gone))}")
            continue
        ids = Ids.read(sealed.ids)
        first, last = ids.bounds
        found: set[int] = set()
        rows = _noting(read(cursor, source, sealed.columns, above=first - 1, through=last, among=ids), found)
        changed = [block for (block, value), before in zip(block_hashes(ids, rows), sealed.hashes, strict=False) if value != before]
        if missing := [pk for pk in ids if pk not in found]:
            yield Finding("missing", contents.number, source.name, tuple(missing[:NAMED_MAX]), f"{len(missing)} rows were removed")
        for block in changed:
            if not any(pk in block for pk in missing):
                first, last = block.bounds
                yield Finding("changed", contents.number, source.name, (first, last), f"one row or more of those from {first} to {last}")
        if len(sealed.hashes) != -(-len(ids) // BLOCK_ROWS):
            yield Finding("chain", contents.number, source.name, detail="it has another number of hashes than its rows need")


def _noting(rows: Iterator[tuple[int, str]], found: set[int]) -> Iterator[tuple[int, str]]:
    for row in rows:
        found.add(row[0])
        yield row


def verify(
    keys: Mapping[str, Ed25519PublicKey], *, root: tuple[int, str] | None = None, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Report:
    """The whole chain. `keys` by name: without any, signatures aren't looked at. `root`: a number
    and its root, as somebody was told of them outside.
    """
    report = Report()
    covered: dict[str, list[Ids]] = defaultdict(list)
    last: Seal | None = None
    while True:
        with snapshot() as cursor:
            newest = Seal.objects.aggregate(models.Max("number"))["number__max"] or 0
            page = list(Seal.objects.filter(number__gt=last.number if last else FIRST - 1).order_by("number")[:PAGE_SEALS])
            for seal in page:
                _take(cursor, seal, last, keys, report, covered)
                if root is not None and seal.number == root[0] and seal.root != root[1]:
                    report.findings.append(Finding("chain", seal.number, detail="it has another root than the one that was told outside"))
                last = seal
                progress(seal.number, newest)
            if len(report.findings) > FINDINGS_MAX:
                break
            if len(page) < PAGE_SEALS:
                _look_beside(cursor, last, covered, report)
                break
    report.root = f"{last.number}:{last.root}" if last else ""
    report.is_shorter = last is None or (root is not None and last.number < root[0])
    return report


def _take(cursor: Any, seal: Seal, last: Seal | None, keys: Mapping[str, Ed25519PublicKey], report: Report, covered: dict[str, list[Ids]]) -> None:
    report.seals += 1
    number, before = (last.number + 1, last.root) if last else (FIRST, "")
    report.findings += [Finding("chain", seal.number, detail=flaw) for flaw in flaws(seal, number, before)]
    report.findings += signature_findings(seal, last, keys)
    report.unsigned += not seal.key
    try:
        contents = read_contents(seal.text)
    except ValueError:
        return
    report.rows += contents.rows
    report.findings += row_findings(cursor, contents)
    for name, sealed in contents.sources.items():
        covered[name].append(Ids.read(sealed.ids))


def signature_findings(seal: Seal, last: Seal | None, keys: Mapping[str, Ed25519PublicKey]) -> Iterator[Finding]:
    """An unsigned seal is right before the first signed one: the key was set later."""
    if not keys or (not seal.key and (last is None or not last.key)):
        return
    if not seal.key:
        yield Finding("signature", seal.number, detail="it isn't signed, and the one before is")
    elif seal.key not in keys:
        yield Finding("signature", seal.number, detail=f"it is signed with another key: {seal.key}")
    elif not is_signed(keys, seal.key, seal.root, bytes(seal.signature or b"")):
        yield Finding("signature", seal.number, detail="its signature isn't that of its root")


def _look_beside(cursor: Any, last: Seal | None, covered: Mapping[str, list[Ids]], report: Report) -> None:
    """Rows that no seal covers: newer than the newest, or put among those that are covered."""
    try:
        contents = read_contents(last.text) if last else None
    except ValueError:
        return  # told already
    for source in SOURCES:
        sealed = contents.sources.get(source.name) if contents else None
        through = sealed.through if sealed else 0
        known = Ids.of_runs(run for ids in covered.get(source.name, ()) for run in ids.runs)
        may_come = sealed.may_come if sealed else Ids()
        inserted = _among(cursor, source, through, known | may_come)
        if inserted and last:
            report.findings.append(
                Finding("inserted", last.number, source.name, tuple(inserted[:NAMED_MAX]), f"{len(inserted)} rows were put among sealed ones")
            )
        cursor.execute(
            f"SELECT count(*) FROM {source.table} WHERE {source.final} AND (id > %s OR id::bigint <@ %s::int8multirange)",  # noqa: S608 - names of our tables
            [through, (may_come - known).multirange],
        )
        if count := cursor.fetchone()[0]:
            report.not_covered[source.name] = count


def _among(cursor: Any, source: Source, through: int, known: Ids) -> list[int]:
    cursor.execute(
        f"SELECT id FROM {source.table} WHERE {source.final} AND id <= %s AND NOT id::bigint <@ %s::int8multirange ORDER BY id",  # noqa: S608
        [through, known.multirange],
    )
    return [pk for (pk,) in cursor.fetchall()]
