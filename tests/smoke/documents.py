"""The commands that documents name: `make X`, `manage.py X` and `python -m X`, wherever they stand
in code (a span, a fence) or in the first column of a table of commands.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stack.rundir import CHECKOUT

FENCE: Final = re.compile(r"^(```|~~~)[^\n]*\n(.*?)^\1", re.MULTILINE | re.DOTALL)
SPAN: Final = re.compile(r"`([^`\n]+)`")
COMMENT: Final = re.compile(r"(?<!\S)#.*$", re.MULTILINE)
HELP: Final = re.compile(r"^([a-z][a-z-]*):.*?## ", re.MULTILINE)
MAKE: Final = re.compile(r"(?<![\w-])make ((?:-\S+ )*)([a-z][a-z-]*)")
MANAGE: Final = re.compile(r"manage\.py ([a-z][a-z_]*)((?: [a-z][a-z_]*)*)")
MODULE: Final = re.compile(r"python3? -m ([a-z][\w.]*[\w])((?: [a-z][\w|]*)?)")
TABLE_HEAD: Final = re.compile(r"^\| *`(make|manage\.py) …` *\|")
WITH_ACTIONS: Final = {"stack", "stack services"}  # commands of manage.py whose next word is part of the name
NOT_OURS: Final = {"venv", "pip", "http.server"}  # modules of Python itself


def documents() -> list[Path]:
    """README, the benchmarks' own, and everything under docs/."""
    return [CHECKOUT / "README.md", CHECKOUT / "benchmarks" / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def documented() -> dict[str, str]:
    """Each command that README, docs or `make help` name, with the first place that names it."""
    commands: dict[str, str] = {}
    for path in documents():
        for command in commands_in(path.read_text()):
            commands.setdefault(command, str(path.relative_to(CHECKOUT)))
    for target in HELP.findall((CHECKOUT / "Makefile").read_text()):
        commands.setdefault(f"make {target}", "make help")
    return commands


def commands_in(markdown: str) -> Iterator[str]:
    """The commands of a document, as `make up`, `manage.py stack up` or `python -m benchmarks
    burst`; one may come more than once.
    """
    for _, fence in FENCE.findall(markdown):
        yield from _in_code(COMMENT.sub("", fence))
    rest = FENCE.sub("", markdown)
    for span in SPAN.findall(rest):
        yield from _in_code(span)
    yield from _in_tables(rest)


def _in_code(code: str) -> Iterator[str]:
    for _, target in MAKE.findall(code):
        yield f"make {target}"
    for command, words in MANAGE.findall(code):
        yield _managed(command, words.split())
    for module, words in MODULE.findall(code):
        if module.split(".")[0] in NOT_OURS:
            continue
        for word in words.split("|") if module == "benchmarks" else [""]:
            yield f"python -m {module} {word.strip()}".strip()


def _managed(command: str, words: list[str]) -> str:
    name = command
    while words and name in WITH_ACTIONS:
        name = f"{name} {words.pop(0)}"
    return f"manage.py {name}"


def _in_tables(markdown: str) -> Iterator[str]:
    """Names in the first column below `make …` or `manage.py …`: "`stack up`, `down`" names `stack
    up` and `stack down`.
    """
    program = ""
    for line in markdown.splitlines():
        head = TABLE_HEAD.match(line)
        program = head[1] if head else program if line.startswith("|") else ""
        if not program or head:
            continue
        before = ""
        for span in SPAN.findall(line.split("|")[1]):
            words = [word for word in span.split() if re.fullmatch(r"[a-z][a-z_-]*", word)]
            if words:
                name = " ".join([before, *words]).strip() if len(words) == 1 else " ".join(words)
                before = " ".join(words[:-1]) or before
                yield f"{program} {name}" if program == "make" else _managed(name.split()[0], name.split()[1:])
