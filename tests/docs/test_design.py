"""docs/design.md has every rule and section that something refers to, and every rule names tests
that exist.
"""

import re

import pytest

from tests.docs import names

DESIGN = (names.ROOT / "docs" / "design.md").read_text(encoding="utf-8")
RULES = dict(zip(*[iter(re.split(r"^### Rule (\d+):", DESIGN.split('<a id="section-4">')[0], flags=re.MULTILINE)[1:])] * 2, strict=True))
NUMBERS = r"\d+(?:(?:, | and | to )\d+)*"
RULE = re.compile(rf"\b[Rr]ules? ({NUMBERS})\b")
SECTION = re.compile(rf"\bdesign,? (?:rules? {NUMBERS} and )?section (\d+)")


def references(text: str) -> set[str]:
    """The anchors of the design that a text refers to, over the ends of comment lines too."""
    joined = re.sub(r"\s*\n\s*(?:#|--)?\s*", " ", text)
    rules = {number for numbers in RULE.findall(joined) for number in re.findall(r"\d+", numbers)}
    return {f"rule-{number}" for number in rules} | {f"section-{number}" for number in SECTION.findall(joined)}


def test_a_reference_is_found_however_it_is_written() -> None:
    assert references("(design, rules 4, 5 and 7)") == {"rule-4", "rule-5", "rule-7"}
    assert references("# offset (design, rule\n# 3): then") == {"rule-3"}
    assert references("-- (design, rule 1 and section 10)") == {"rule-1", "section-10"}
    assert references("exactly the residue of design\nsection 2, and") == {"section-2"}


def test_every_reference_leads_to_an_anchor() -> None:
    anchors = names.anchors(DESIGN)
    referring = {
        path: references(text)
        for path, text in names.texts(".py", ".sql", ".md", ".html", ".yml", ".toml", "Makefile")
        if path != "tests/docs/test_design.py"
    }

    assert {path: lost for path, found in referring.items() if (lost := found - anchors)} == {}
    assert len([path for path, found in referring.items() if found]) > 20


@pytest.mark.parametrize("number", RULES)
def test_every_rule_names_tests_that_exist(number: str) -> None:
    tests = names.TEST.findall(RULES[number])

    assert tests, f"rule {number} names no test"
    assert [problem for file, name in tests if (problem := names.missing_test(file, name))] == []


def test_the_rules_stand_in_their_numbers_order_and_have_their_anchors() -> None:
    assert list(map(int, RULES)) == sorted(set(map(int, RULES)))
    assert {f"rule-{number}" for number in RULES} <= names.anchors(DESIGN)
