"""The words that this code base doesn't use, because the field has better ones (docs/glossary.md),
are in no name, log line, docstring, comment, template or document.
"""

import re
from collections.abc import Iterator

import pytest

from tests.docs import names

# Each with what is said instead.
PATTERNS = {
    r"wish": "Retry-After; or what is asked for",
    r"\bbur(?:y|ies|ied)\b|_bury|\bbury": "mark dead, evict",
    r"knock": "connectivity check",
    r"pulse": "heartbeat",
    r"\bstandings?\b|_standing|standing_": "state, health",
    r"ways?out|\bways? out\b": "resolution, operator action, eligibility",
    r"under_?way|\bunder way\b": "in flight, running",
    r"patience": "backoff; how long something is waited for",
    r"told_before|\btold before\b": "contradicted by",
    r"let_none_in": "lock_out_inserts",
    r"look_into": "quarantine_changes",
    r"mistakes? of (?:ours|our own)|\bown mistakes?\b|mistakes?_of_ours|own_?mistakes?": "internal error",
    r"nobody_?'?s\b": "say who, or that there is none",
    r"\bask(?:s|ed|ing)? (?:[a-z]+ )?first\b|asked_for_first|asks?_first": "reconcile before resend",
    r"\bputs? away\b|put_away": "quarantine",
    r"set_apart|\bset apart\b": "isolated",
    r"\bowes? (?:a|its) call": "token debt",
}
# What is stored or sent keeps its name; the others are the standard word in their place.
EXCEPTIONS = {
    r"clearing_standing\w*": "the counterparties' tables, and names derived from them",
    r"\b(?:add|change|delete|view)_standing\w*": "permissions",
    r"clearing/standing/": "an address of the admin",
    r"\bstanding_breaker_known\b": "a constraint",
    r"\"standing(?:change)?\"|`standing`": "the model's former name, by which permissions, addresses and the audit log are stored",
    r"\"buried\"": "a metric's former label, counted for one release",
}
EXCEPTIONS_MAX = 8
HISTORY = ("CHANGELOG.md",)  # what was said then
SUFFIXES = (
    ".py",
    ".pyi",
    ".sql",
    ".md",
    ".html",
    ".txt",
    ".in",
    ".yml",
    ".toml",
    ".sh",
    ".css",
    ".js",
    "Makefile",
    "Procfile",
    "Dockerfile",
    ".importlinter",
)
ALLOWED = re.compile("|".join(EXCEPTIONS))


# A space of a pattern may be the end of a line, of a comment too.
SPACE = r"(?: |\s*\n\s*(?:#|--)?\s*)"


def is_read(path: str) -> bool:
    return path not in HISTORY and "/migrations/" not in path and not path.endswith(("_pb2.py", "_pb2.pyi", "tests/docs/test_words.py"))


TEXTS = {path: ALLOWED.sub("", text) for path, text in names.texts(*SUFFIXES) if is_read(path)}


def places(pattern: str) -> Iterator[str]:
    """Where it stands, with its line."""
    wanted = re.compile(pattern.replace(" ", SPACE), re.IGNORECASE)
    for path, text in TEXTS.items():
        for match in wanted.finditer(text):
            number = text.count("\n", 0, match.start()) + 1
            yield f"{path}:{number}: {text.splitlines()[number - 1].strip()}"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_text_has_it(pattern: str) -> None:
    assert list(places(pattern)) == [], f"say instead: {PATTERNS[pattern]}"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_no_file_is_called_it(pattern: str) -> None:
    assert [path for path in names.tracked() if is_read(path) and re.search(pattern, path, re.IGNORECASE)] == []


def test_a_phrase_is_found_over_the_end_of_a_line() -> None:
    TEXTS["here"] = "# what may have been sent is asked for\n# first, always"
    try:
        assert list(places(r"\bask(?:s|ed|ing)? (?:[a-z]+ )?first\b")) != []
    finally:
        del TEXTS["here"]


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_each_exception_is_needed(exception: str) -> None:
    """Otherwise it is taken off the list."""
    assert any(re.search(exception, text) for path, text in names.texts(*SUFFIXES) if is_read(path))


def test_the_exceptions_stay_few() -> None:
    assert len(EXCEPTIONS) <= EXCEPTIONS_MAX
