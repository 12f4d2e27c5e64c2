"""What a command has to leave behind to count as working: its exit code, and figures that are
figures.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn


class CheckError(Exception):
    """A command doesn't do what its document says; the text is one line."""


class SkippedError(Exception):
    """A command said that it can't run here; the text is its reason."""


@dataclass(frozen=True)
class Ended:
    """A command's end."""

    exit_code: int
    output: str
    errors: str


SKIPPED = "is skipped, for the reason above"
Judge = Callable[[Ended], None]


def raise_if_skipped(ended: Ended) -> None:
    """Raises SkippedError where a target of the Makefile ended well but says that it was
    skipped.
    """
    if not ended.exit_code and SKIPPED in ended.output:
        raise SkippedError(next((line for line in reversed(ended.errors.splitlines()) if line.strip()), "no reason given"))


def succeeded(ended: Ended) -> None:
    """Exit code 0. Raises CheckError with the last line that the command wrote."""
    if ended.exit_code:
        raise CheckError(f"exit code {ended.exit_code}: {last_line(ended)}")


def helps(ended: Ended) -> None:
    """`--help` ends with 0 and says how the command is used."""
    succeeded(ended)
    if "usage:" not in ended.output:
        raise CheckError("--help says nothing of its usage")


def says_who_knows(ended: Ended) -> None:
    """Advisories as JSON; raises SkippedError where it says that there was no source of them."""
    reason = next((line for line in ended.errors.splitlines() if line.startswith("advisories: nobody can say")), "")
    if ended.exit_code and reason and "Error 3" in ended.errors:
        raise SkippedError(reason)
    documents(ended.output)


def has_json(ended: Ended) -> None:
    """Exit code 0, and JSON."""
    succeeded(ended)
    documents(ended.output)


def has_figures(ended: Ended) -> None:
    """Exit code 0, and JSON in which every number is finite and every ratio above zero."""
    succeeded(ended)
    for document in documents(ended.output):
        check_ratios(document)


def documents(text: str) -> list[Any]:
    """The JSON objects and lists of an output, each beginning a line. Raises CheckError when there
    is none, or when one holds NaN or an infinity.
    """
    decoder = json.JSONDecoder(parse_constant=_refuse)
    documents_read, lines = [], text.splitlines(keepends=True)
    while lines:
        if lines[0].lstrip().startswith(("{", "[")):
            rest = "".join(lines).lstrip()
            try:
                document, end = decoder.raw_decode(rest)
            except json.JSONDecodeError as error:
                raise CheckError(f"its JSON can't be read: {error}") from None
            documents_read.append(document)
            lines = rest[end:].splitlines(keepends=True)
        else:
            lines.pop(0)
    if not documents_read:
        raise CheckError("it prints no JSON")
    return documents_read


def check_ratios(document: Any) -> None:
    """Raises CheckError unless every ratio in a benchmark's figures is finite and above zero."""
    for path, value in ratios(document):
        if not (math.isfinite(value) and value > 0):
            raise CheckError(f"{path} is {value}")


def ratios(document: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number below `ratios`, or whose name says that it is over something."""
    items = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for name, value in items:
        here = f"{path}.{name}".lstrip(".")
        if isinstance(value, dict | list):
            yield from ratios(value, here)
        elif isinstance(value, int | float) and not isinstance(value, bool) and ("ratios." in here or "_over_" in str(name)):
            yield here, float(value)


def last_line(ended: Ended) -> str:
    """The last line that says something; make's own last line only repeats the exit code."""
    lines = [line.strip() for text in (ended.output, ended.errors) for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("make")), "it said nothing")


def _refuse(constant: str) -> NoReturn:
    raise CheckError(f"its JSON holds {constant}")
