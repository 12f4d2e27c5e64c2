"""What an audit page says comes from one snapshot, however much is written while it is read."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from sandbox import control, ledger
from sandbox.control import AuditPages
from sandbox.storage import PlacedOrder, Storage

ORDER = PlacedOrder("O1", "7", 0, 1, "OPEN", "BTC", "0.1", "6000", "C1", 1)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "sandbox.sqlite3")
    with storage.transaction():
        ledger.open_books(storage, 1)
        storage.insert_order(ORDER)
    return storage


def write(storage: Storage) -> None:
    """A step of the order."""
    with storage.transaction():
        ledger.book(storage, ledger.move(ledger.SYSTEM, ledger.FUND, "USDT", Decimal(5)), order_id="O1", key="O1:2", at_ms=2)


def read(page: Callable[[Request], Response]) -> Any:
    return msgspec.json.decode(page(Request({"type": "http", "query_string": b"", "headers": []})).body)


def write_after(monkeypatch: pytest.MonkeyPatch, storage: Storage, statement: str) -> None:
    """Something is written between the page's first statement and its next one."""
    first = getattr(control, statement)

    def then_write(*arguments: Any) -> Any:
        rows = first(*arguments)
        write(storage)
        return rows

    monkeypatch.setattr(control, statement, then_write)


def test_the_ledger_balances_while_it_is_written(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_after(monkeypatch, storage, "_totals")

    assert read(AuditPages(storage).balance)["balanced"]


def test_a_balance_without_its_posting_shows(storage: Storage) -> None:
    with storage.transaction():
        storage._run("UPDATE balance SET amount = '1' WHERE account = 'fund' AND asset = 'USDT'")

    assert not read(AuditPages(storage).balance)["balanced"]


def test_residues_are_of_the_moment_that_the_orders_are_of(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_after(monkeypatch, storage, "_orders_after")

    assert read(AuditPages(storage).residues)["rows"][0]["residue"] == {}


def test_the_next_page_sees_what_was_written(storage: Storage) -> None:
    write(storage)

    assert read(AuditPages(storage).residues)["rows"][0]["residue"] == {"fund|USDT": "5", "system|USDT": "-5"}
