"""The scene that an upgrade meets."""

from typing import Any

from tests.upgrade.scene import Scene


class Busy:
    """Servers and an operator of an order whose attempt runs when the operator first asks."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []

    def ask(self, clearing: int, kind: str) -> None:
        self.asked.append((clearing, kind))

    def query(self, _sql: str, _clearing: int) -> list[tuple[int]]:
        return [(7,)] if len(self.asked) > 1 else []


def test_an_operator_who_was_refused_asks_again() -> None:
    busy: Any = Busy()

    found = Scene(busy, busy)._asked(busy, 3, "void")

    assert found == 7
    assert busy.asked == [(3, "void")] * 2
