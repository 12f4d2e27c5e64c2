"""docs/guards.md names files and tests that exist, so that nobody trusts a guard whose test is
gone.
"""

import ast
import re

import pytest

from stack.rundir import CHECKOUT

TEXT = (CHECKOUT / "docs" / "guards.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| what happens", "| guard"))]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", TEXT)
FILES = sorted(set(re.findall(r"`((?:\w+/)+[\w.]+\.(?:py|sql))", TEXT)))


def definitions(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    return {node.name: node for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_is_named_exists(file: str, name: str) -> None:
    body = ast.parse((CHECKOUT / file).read_text(encoding="utf-8")).body
    for part in name.split("::"):
        found = definitions(body).get(part)
        assert found is not None, f"{file} has no {name}"
        body = found.body if isinstance(found, ast.ClassDef) else []


@pytest.mark.parametrize("file", FILES)
def test_every_file_that_is_named_exists(file: str) -> None:
    assert (CHECKOUT / file).is_file()


@pytest.mark.parametrize("row", ROWS)
def test_every_guard_has_a_test(row: str) -> None:
    assert re.search(r"`tests/[\w/]+\.py::\w+", row), row
