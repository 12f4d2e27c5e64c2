"""What a scenario is: orders, the processes before, what the dying process does, and how all must
end.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tests.crashpoints import service
from tests.crashpoints.outcomes import CLEARED, Behaviour
from tests.crashpoints.points import Phase, Point
from tests.crashpoints.process import Process
from tests.orders.messages import interface_row, message, row

Body = Callable[[Process], None]


@dataclass(frozen=True, slots=True)
class Order:
    """An order as the counter writes it; a user's orders follow one another by `sequence`."""

    order_id: str
    user_id: str
    sequence: int
    direction: str = "OPEN"
    asset: str = "BTC"
    contract_id: str = ""

    def row(self, start_ms: int, **changes: str) -> dict[str, Any]:
        """Its row in the binlog."""
        at = datetime.fromtimestamp((start_ms + self.sequence) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        direction = {"OPEN": "1", "CLOSE": "2"}[self.direction]
        columns = {"id": str(self.sequence), "user_id": self.user_id, "sequence": str(self.sequence), "direction": direction, **self._amounts()}
        return row(self.order_id, **{**columns, "contract_id": self.contract_id or f"C-{self.order_id}", "created_at": at, **changes})

    def interface_row(self, start_ms: int) -> dict[str, Any]:
        """Its row in the counter's interface."""
        columns = {"id": str(self.sequence), "user_id": self.user_id, "sequence": str(self.sequence), "direction": self.direction, **self._amounts()}
        contract = self.contract_id or f"C-{self.order_id}"
        return interface_row(self.order_id, **columns, contract_id=contract, created_ms=start_ms + self.sequence)

    def _amounts(self) -> dict[str, str]:
        """Its asset, and a quantity whose quote is near the market's price."""
        return {"asset": self.asset, "quantity": {"BTC": "0.050000000000000000", "ETH": "1.000000000000000000"}[self.asset]}


@dataclass(frozen=True, slots=True)
class Life:
    """A process before the act; it dies where it is told to."""

    body: Body
    dies_at: Point | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Named as `--scenario` takes it. `ends`: how orders other than A1 end ("cleared" unless told),
    or all where no behaviour parks A1.

    `also` looks at what else must be true then, and tells what isn't.
    """

    name: str
    act: Body
    orders: tuple[Order, ...]
    lives: tuple[Life, ...] = (Life(service.consume),)
    before: tuple[tuple[str, int], ...] = ()  # behaviours that are in force from the beginning
    variants: tuple[tuple[str, int], ...] = (("done", 1),)
    again: Body | None = None
    ends: Mapping[str, frozenset[str]] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    double: bool = False  # the recovery dies, too, at each of its boundaries
    by_interface: bool = False  # the orders come by the counter's interface alone
    unsynced: frozenset[str] = frozenset()  # orders that the counter's sync-order table lacks
    also: Callable[[], Iterable[str]] = tuple
    messages: Callable[[tuple[Order, ...], int], list[bytes]] = lambda orders, start_ms: [message(order.row(start_ms)) for order in orders]


@dataclass(frozen=True, slots=True)
class Group:
    """A scenario with one of its variants."""

    scenario: Scenario
    behaviour: Behaviour
    step: int

    @property
    def name(self) -> str:
        """As `--scenario` takes it."""
        return f"{self.scenario.name}/{self.behaviour.name}@{self.step}"

    def ends(self, order_id: str) -> frozenset[str]:
        """How the order may end."""
        usual = self.behaviour.ends if order_id == "A1" else frozenset({CLEARED})
        return self.scenario.ends.get(order_id, usual)


A1, A2, A3 = Order("A1", "1001", 1), Order("A2", "1001", 2), Order("A3", "1001", 3)
B1 = Order("B1", "1002", 4, direction="CLOSE", asset="ETH")
C1 = Order("C1", "1003", 5)
CLOSING = Order("A1", "1001", 1, direction="CLOSE", asset="ETH")
PAIR: Final = (A1, A2)
TRIO: Final = (A1, A2, A3)
ONE_A_MESSAGE: Final = {"CLEARING_NEXT_IN_PLACE_MAX": 1}
PLAIN_CHAIN: Final = {"CLEARING_RUN_STEPS_INLINE": False}
WORKED: Final = (Life(service.consume), Life(service.work_one))


def call_of(step: int, phase: Phase, nth: int = 1) -> Point:
    """The nth call of a step, of an order of one part."""
    called = {1: "counter POST /v1/adjustments", 2: "fund POST /v1/transfers", 3: "trading POST /v1/exchanges", 4: "fund POST /v1/transfers"}[step]
    return Point(f"call {called} step {step}", nth, phase)
