"""A seal as it is stored: its text, and what it says.

The text is JSON: what was appended to each table since the seal before (ids, and a hash of each
block of rows), up to which id it has looked, which smaller ids may still come, and the root of the
seal before. The root is the text's SHA-256.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Final

from base.models import Seal
from ops.seals.ids import Ids

FIRST: Final = 1


@dataclass(frozen=True, slots=True)
class Gap:
    """Ids that no row had when it was looked: of a transaction that was still in flight, or that
    was rolled back. No transaction from `xmax` on can have begun before.
    """

    ids: str
    xmax: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a seal says of one source."""

    through: int = 0
    columns: tuple[str, ...] = ()
    ids: str = ""
    hashes: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def may_come(self) -> Ids:
        """Smaller ids that the next seal may still cover."""
        return Ids.of_runs(run for gap in self.gaps for run in Ids.read(gap.ids).runs)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a seal says."""

    number: int
    at: str
    database: str
    before: str
    sources: Mapping[str, Sealed] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(len(Ids.read(sealed.ids)) for sealed in self.sources.values())

    @property
    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def root_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def read_contents(text: str) -> Contents:
    """Raises ValueError for what no seal says."""
    try:
        said: dict[str, Any] = json.loads(text)
        sources = {name: _read_sealed(one) for name, one in said.pop("sources").items()}
        return Contents(**said, sources=sources)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no seal's text: {error}") from error


def _read_sealed(said: dict[str, Any]) -> Sealed:
    gaps = tuple(Gap(**gap) for gap in said.pop("gaps"))
    return Sealed(**{**said, "columns": tuple(said["columns"]), "hashes": tuple(said["hashes"])}, gaps=gaps)


def newest() -> Seal | None:
    return Seal.objects.order_by("-number").first()


def flaws(seal: Seal, number: int, before: str) -> Iterator[str]:
    """Why a seal can't be the one of this number, after a seal of that root."""
    if seal.number != number:
        yield f"{number - 1} is followed by {seal.number}: seals are missing"
    if root_of(seal.text) != seal.root:
        yield "its root isn't its text's hash"
    try:
        said = read_contents(seal.text)
    except ValueError as error:
        yield str(error)
        return
    if said.number != seal.number:
        yield f"its text is that of seal {said.number}"
    if said.before != before:
        yield "it isn't made upon the seal before it"
