"""The SQL functions and `status.py` tell the same story."""

import re
from pathlib import Path

import pytest

from clearing import status
from clearing.status import ACTIVE, DUE, FINAL, TRANSITIONS, State

SQL = Path(status.__file__).parent / "sql"
NOTE = re.compile(r"clearing_note\([^,]+, ([^,]+), ([^,]+),[^\n]*?(?:-- (from|to): ([a-z ]+))?\n")


def words(expression: str, noted: list[str]) -> list[str]:
    literal = re.fullmatch(r"\s*'(\w+)'\s*", expression)
    return [literal.group(1)] if literal else noted


def transitions_in_sql() -> set[tuple[str, str]]:
    text = "".join(path.read_text() for path in sorted(SQL.glob("*.sql"))).split("CREATE OR REPLACE FUNCTION clearing_promote(", 1)[1]
    found = set()
    for source, target, side, noted in NOTE.findall(text):
        sources = words(source, noted.split() if side == "from" else [])
        targets = words(target, noted.split() if side == "to" else [])
        assert sources, f"a change from {source} doesn't say which states that may be"
        assert targets, f"a change to {target} doesn't say which states that may be"
        found |= {(a, b) for a in sources for b in targets}
    return found


class TestTransitions:
    def test_the_sql_makes_only_allowed_changes(self) -> None:
        allowed = {(source, target) for source, targets in TRANSITIONS.items() for target in targets}

        assert transitions_in_sql() <= allowed

    def test_every_allowed_change_is_made_somewhere(self) -> None:
        allowed = {(source, target) for source, targets in TRANSITIONS.items() for target in targets}

        assert allowed <= transitions_in_sql()

    def test_an_incomplete_table_is_noticed_at_import(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(TRANSITIONS, State.PENDING)

        with pytest.raises(AssertionError, match="PENDING"):
            status.check_complete()

    def test_lists_of_states_in_the_sql_are_those_of_status(self) -> None:
        text = "".join(path.read_text() for path in SQL.glob("*.sql"))
        lists = {tuple(re.findall(r"\w+", found)) for found in re.findall(r"state IN \(([^)]*)\)", text)}

        of_people = {("waiting", "queued", "retrying"), ("parked", "retrying"), ("pending", "unknown")}
        of_an_outage = {("retrying", "unknown")}  # got no answer; what is pending got one
        of_operations = {("open", "pending", "unknown"), ("planned", "open", "pending", "unknown"), ("rejected", "done")}
        assert lists <= {tuple(ACTIVE), tuple(DUE), tuple(FINAL)} | of_people | of_an_outage | of_operations
