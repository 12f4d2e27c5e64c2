"""What documents name, and whether it exists: tests, files, modules, headings."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


@cache
def tracked() -> frozenset[str]:
    """Every file of the repository, as git knows it, and every folder that holds one."""
    output = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [name for name in output.splitlines() if (ROOT / name).is_file()]
    return frozenset(files) | {str(parent) for name in files for parent in Path(name).parents}


def texts(*suffixes: str) -> Iterator[tuple[str, str]]:
    """(path, text) of each tracked file with one of these suffixes."""
    for name in sorted(tracked()):
        if name.endswith(suffixes) and (ROOT / name).is_file():
            yield name, (ROOT / name).read_text(encoding="utf-8")


def documents() -> Iterator[tuple[str, str]]:
    return texts(".md")


def missing_test(file: str, name: str) -> str:
    """What is wrong with `file::Class::test`; empty when it exists."""
    if not (ROOT / file).is_file():
        return f"no file {file}"
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    for part in name.split("::"):
        node = {child.name: child for child in body if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))}.get(part)
        if node is None:
            return f"{file} has no {name}"
        body = node.body if isinstance(node, ast.ClassDef) else []
    return ""


def anchors(text: str) -> set[str]:
    """Where a link into this text may lead: its headings, as GitHub names them, and `<a id>`."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings} | set(re.findall(r'<a id="([\w-]+)">', text))
