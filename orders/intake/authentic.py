"""Whether the counter wrote a row: its MAC (design, rule 14; docs/contracts, 6.6). Pure.

A row of Kafka is a claim: whoever may write to the topic, or to our database, can make one. The
counter's MAC over the row's own contents is what nobody else can make. It is checked before a row
is stored, and again at each claim of its order, before anything is signed.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from django.conf import settings

from base.decimals import plain

if TYPE_CHECKING:
    from orders.intake.mapping import NewOrder

FORMAT: Final = "sync-order-1"


@dataclass(frozen=True, slots=True)
class Authority:
    """Who may say that an order is real: the keys by their ids. Rows that were created before
    `since_ms` needn't carry a MAC: the counter wrote none then.
    """

    keys: Mapping[str, str] = field(repr=False)
    since_ms: int = 0

    @classmethod
    def from_settings(cls) -> "Authority | None":
        """By INTAKE_MAC, INTAKE_KEYS and INTAKE_MAC_SINCE; None where no MAC is asked for."""
        if not settings.INTAKE_MAC:
            return None
        since = settings.INTAKE_MAC_SINCE
        return cls(settings.INTAKE_KEYS, round(since.timestamp() * 1000) if since else 0)

    def doubt(self, row: "NewOrder") -> str:
        """Why the row can't be taken for the counter's, in words; empty where it can."""
        if row.created_ms < self.since_ms:
            return ""
        if not row.mac:
            return "it carries no MAC"
        key = self.keys.get(row.mac_key_id)
        if key is None:
            return "its mac_key_id names none of our keys"
        return "" if hmac.compare_digest(mac(row, key).encode(), row.mac.encode()) else "its MAC is not that of its contents"


def mac(row: "NewOrder", key: str) -> str:
    """HMAC-SHA256 of the canonical text, in lower-case hex."""
    return hmac.new(key.encode(), canonical_text(row).encode(), sha256).hexdigest()


def canonical_text(row: "NewOrder") -> str:
    """What the MAC covers: the format and the row's fields, a line each, without a last line break.
    Amounts are plain decimals without trailing zeros, the time is in milliseconds of UTC.
    """
    fields = (
        *(FORMAT, row.kind, row.order_id, row.user_id, str(row.shard), str(row.sequence), row.contract_id, row.direction, row.asset),
        *(plain(row.quantity), plain(row.quoted_usdt), row.instrument, str(row.created_ms)),
    )
    return "\n".join(fields)
