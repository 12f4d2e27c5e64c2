"""The counter's MAC of a sync-order row (docs/contracts/README.md, clause 6.8). Pure.

A real counter writes both columns in the INSERT; this one makes them whenever it shows a row, which
comes to the same, since nothing that the MAC covers ever changes.
"""

import hmac
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256

from sandbox.storage import SyncOrderRow

Proof = Callable[[SyncOrderRow], dict[str, str | None]]
UNPROVEN: dict[str, str | None] = {"mac": None, "mac_key_id": None}


def no_proof(_row: SyncOrderRow) -> dict[str, str | None]:
    """The columns of a counter that makes no MACs."""
    return UNPROVEN


def prover(key_id: str, key: str) -> Proof:
    """Makes a row's two columns. Rows that aren't exchange orders have none: they lack amounts."""

    def columns(row: SyncOrderRow) -> dict[str, str | None]:
        if row.quantity is None or row.quoted_usdt is None:
            return UNPROVEN
        return {"mac": hmac.new(key.encode(), text_of(row).encode(), sha256).hexdigest(), "mac_key_id": key_id}

    return columns


def text_of(row: SyncOrderRow) -> str:
    """The canonical text: one field a line."""
    amounts = [_plain(Decimal(amount)) for amount in (row.quantity or 0, row.quoted_usdt or 0)]
    names = (row.kind, row.order_id, row.user_id, row.shard, row.sequence, row.contract_id, row.direction, row.asset)
    return "\n".join(["sync-order-1", *map(str, names), *amounts, str(row.instrument), str(row.created_ms)])


def _plain(amount: Decimal) -> str:
    whole, _, fraction = f"{amount:f}".partition(".")
    return f"{whole}.{fraction.rstrip('0')}".rstrip(".")
