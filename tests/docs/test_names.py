"""Documents name files, modules and tests that exist."""

import re

import pytest

from tests.docs import names

HISTORY = {"CHANGELOG.md"}  # it names what was there then
# What looks like a module and is none.
NO_MODULES = {
    "clearing.resume": "a queue",
    "clearing.suspects": "a queue",
    "stack.env": "a file in .run",
}
PATH = re.compile(r"`((?:acceptance_site|base|orders|clearing|ops|sandbox|stack|benchmarks|tests|docs|findings)/[\w./-]*)`?")
MODULE = re.compile(r"`((?:acceptance_site|base|orders|clearing|ops|sandbox|stack|benchmarks)(?:\.\w+)+)")
DOCUMENTS = {path: text for path, text in names.documents() if path not in HISTORY}


def is_there(path: str) -> bool:
    return path.rstrip("/.") in names.tracked()


def is_module(dotted: str) -> bool:
    """Whether it is a module, or something that a module defines."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[:end])
        if f"{path}.py" in names.tracked():
            rest = parts[end:]
            return not rest or re.search(rf"\b{rest[0]}\b", (names.ROOT / f"{path}.py").read_text(encoding="utf-8")) is not None
        if f"{path}/__init__.py" in names.tracked():
            text = (names.ROOT / path / "__init__.py").read_text(encoding="utf-8")
            models = names.ROOT / path / "models.py"
            text += models.read_text(encoding="utf-8") if models.is_file() else ""
            return end == len(parts) or re.search(rf"\b{parts[end]}\b", text) is not None
    return False


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_exists(document: str) -> None:
    assert {path for path in PATH.findall(DOCUMENTS[document]) if not is_there(path)} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_exists(document: str) -> None:
    assert {dotted for dotted in MODULE.findall(DOCUMENTS[document]) if dotted not in NO_MODULES and not is_module(dotted)} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_test_exists(document: str) -> None:
    assert [problem for file, name in names.TEST.findall(DOCUMENTS[document]) if (problem := names.missing_test(file, name))] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[document]):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        file = (names.ROOT / document).parent / path if path else names.ROOT / document
        if not file.exists() or (anchor and anchor not in names.anchors(file.read_text(encoding="utf-8"))):
            lost.append(target)
    assert lost == []


def test_decision_records_are_numbered_without_a_gap() -> None:
    records = sorted(path for path in names.tracked() if re.match(r"docs/decisions/.+\.md$", path))

    assert [path.split("/")[-1][:4] for path in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    assert [path for path in records if not (names.ROOT / path).read_text(encoding="utf-8").startswith(f"# {path.split('/')[-1][:4]}: ")] == []
