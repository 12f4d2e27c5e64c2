"""What the audit compares, as plain records. Times in milliseconds since the epoch, UTC."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

KEY = re.compile(r"(?P<order_id>.+?):(?P<step>[1-4])(?:\.(?P<part>\d+))?(?::r\d+)?")
VOIDED = "voided"
Residue = Mapping[tuple[str, str], Decimal]  # (account, asset) → amount; zeros left out


@dataclass(frozen=True, slots=True)
class Placed:
    """An order as the counter placed it."""

    order_id: str
    user_id: str
    direction: str
    asset: str
    quantity: Decimal
    quoted_usdt: Decimal
    created_ms: int


@dataclass(frozen=True, slots=True)
class Effect:
    """An operation that was applied at a counterparty, in the order of application. `sold`,
    `bought`, `min_lot` (of what is sold): of an exchange.
    """

    order_id: str
    user_id: str
    key: str
    sold: Decimal | None = None
    bought: Decimal | None = None
    min_lot: Decimal | None = None

    @property
    def place(self) -> tuple[int, int] | None:
        """(step, part), from the key; None where the key isn't one of ours."""
        found = KEY.fullmatch(self.key)
        return (int(found["step"]), int(found["part"] or 1)) if found and found["order_id"] == self.order_id else None


@dataclass(frozen=True, slots=True)
class HeldOrder:
    """An order and its clearing as our database holds them. `promoted_ms`: when it first became the
    head of its lane.

    `parked`: the spans (from, until) in which it was parked; the last may be open (until None).
    `in_doubt`: the keys of operations of which a request could still be applied when it was parked,
    and that weren't sent again after that.
    """

    order_id: str
    user_id: str
    contract_id: str
    place: tuple[int, int, int]  # counter's time, shard, sequence: the lane's order
    state: str
    late: bool
    accepted_ms: float
    started_ms: float | None
    cleared_ms: float | None
    slippage_usdt: Decimal | None
    promoted_ms: float | None = None
    parked: tuple[tuple[float, float | None], ...] = ()
    in_doubt: frozenset[str] = frozenset()

    def parked_at(self, moment: float) -> bool:
        """Whether it was parked at that time."""
        return any(since <= moment and (until is None or moment <= until) for since, until in self.parked)

    def voided_by(self, moment: float) -> bool:
        """Whether people had closed it by then; a void ends the last time that it was parked."""
        return self.state == VOIDED and bool(self.parked) and moment >= (self.parked[-1][1] or self.parked[-1][0])


@dataclass(frozen=True, slots=True)
class Books:
    """All that was read."""

    placed: Mapping[str, Placed]
    held: Mapping[str, HeldOrder]
    effects: tuple[Effect, ...]
    residues: Mapping[str, Residue]
    balanced: bool
    placed_later: frozenset[str] = field(default_factory=frozenset)  # while the audit was reading
