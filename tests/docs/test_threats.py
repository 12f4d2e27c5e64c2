"""docs/threats.md: each row names a test, or says why the fault stays. (tests/docs/test_names.py:
that the files and tests which it names exist.)
"""

import re

import pytest

from tests.docs import names

TEXT = (names.ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if re.match(r"\| [HML]\d", line)]


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_every_fault_has_a_guard_with_a_test_or_a_reason(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split("|")]

    assert len(cells) == 4
    assert re.search(r"`tests/[\w/]+\.py::\w+", cells[3]) or cells[2].startswith("stays: ")


def test_rows_are_sorted_by_weight_and_number() -> None:
    found = [(("HML".index(letter)), int(number)) for letter, number in re.findall(r"^\| ([HML])(\d+)", TEXT, re.MULTILINE)]

    assert len(found) > 10
    assert found == sorted(found)
