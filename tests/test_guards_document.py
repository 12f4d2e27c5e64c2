"""Every guard of docs/guards.md names a test. (tests/docs/test_names.py: that the files and tests
which it names exist.)
"""

import re

import pytest

from stack.rundir import CHECKOUT

TEXT = (CHECKOUT / "docs" / "guards.md").read_text(encoding="utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| what happens", "| guard"))]


@pytest.mark.parametrize("row", ROWS)
def test_every_guard_has_a_test(row: str) -> None:
    assert re.search(r"`tests/[\w/]+\.py::\w+", row), row
