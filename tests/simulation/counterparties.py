"""Counter, fund and trading in memory, whose answers are of every class, at random; and what they
did, as the audit reads it.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Any, Final, Literal, NoReturn
from urllib.parse import unquote

from base.http import HttpAnswer
from clearing.gateways import Action, Gateways
from clearing.gateways.fake import LIMITS, Applied, FakeCounterparties, Fault, FaultKind, _play
from clearing.gateways.http import Client, over
from clearing.gateways.types import Counterparty
from ops.audit.facts import Effect, Residue
from sandbox import ledger
from sandbox.storage import PlacedOrder, Posting

CALL_SECONDS: Final = (0.004, 0.04)  # both ways
OF_CALLS: Final[tuple[tuple[float, Fault], ...]] = (
    (0.006, Fault(kind=FaultKind.UNREACHABLE)),
    (0.006, Fault(kind=FaultKind.LATENCY, latency_ms=1_500)),
    (0.003, Fault(kind=FaultKind.LATENCY, latency_ms=9_000)),
    (0.004, Fault(kind=FaultKind.STATUS, status=503)),
    (0.003, Fault(kind=FaultKind.STATUS, status=429, code="too_many_requests", latency_ms=1_000)),
    (0.001, Fault(kind=FaultKind.STATUS, status=429, code="too_many_requests", latency_ms=1_000, scope="all")),
    (0.002, Fault(kind=FaultKind.STATUS, status=401, code="signature_invalid")),
    (0.003, Fault(kind=FaultKind.REFUSE)),
    (0.020, Fault(kind=FaultKind.PARTIAL, fraction=Decimal("0.6"))),
    (0.006, Fault(kind=FaultKind.APPLY_THEN_TIMEOUT)),
    (0.006, Fault(kind=FaultKind.APPLY_THEN_RESET)),
    (0.006, Fault(kind=FaultKind.APPLY_THEN_5XX, status=502)),
    (0.006, Fault(kind=FaultKind.RESET)),
    (0.006, Fault(kind=FaultKind.GARBAGE)),
    (0.006, Fault(kind=FaultKind.IN_PROGRESS, latency_ms=800)),
    (0.004, Fault(kind=FaultKind.STALE)),
)
OUTAGES: Final = (  # of one counterparty, whoever calls it and whatever for
    Fault(kind=FaultKind.UNREACHABLE),
    Fault(kind=FaultKind.STATUS, status=503),
    Fault(kind=FaultKind.STATUS, status=403, code="forbidden"),
    Fault(kind=FaultKind.STATUS, status=401, code="signature_invalid"),
    Fault(kind=FaultKind.RESET),
    Fault(kind=FaultKind.APPLY_THEN_TIMEOUT),
)
KEPT_MS: Final = 80_000  # then a key is forgotten: our retention, a claim, a signature's validity and a call's deadline before it
NOT_OF_QUESTIONS: Final = frozenset({FaultKind.REFUSE, FaultKind.PARTIAL, FaultKind.IN_PROGRESS})


class Counterparties(FakeCounterparties):
    """The fakes, with dice."""

    def __init__(self, clock_ms: Callable[[], int], random: Random) -> None:
        super().__init__(clock_ms)
        self.quiet = False
        self.faults: Counter[str] = Counter()
        self.poisonous: dict[str, int] = {}  # orders that kill the workers that call for them, and how many still
        self.forgotten = 0
        self._outages: dict[Counterparty, tuple[Fault, int]] = {}
        self._first_heard_ms: dict[str, int] = {}
        self._results: dict[str, Mapping[str, Any]] = {}
        self._read = 0
        self._dice = random

    def pick_fault(self, operation: str, order_id: str) -> Fault | None:
        """At random."""
        draw = self._dice.random()
        if self.quiet:
            return None
        for share, fault in OF_CALLS:
            draw -= share
            if draw < 0:
                return self._counted(operation, fault)
        return None

    def _counted(self, operation: str, fault: Fault) -> Fault | None:
        if (operation == "status" and fault.kind in NOT_OF_QUESTIONS) or (fault.kind == FaultKind.PARTIAL and operation != Action.EXCHANGE):
            return None
        self.faults[fault.kind.value] += 1
        return fault

    def fall(self, counterparty: Counterparty, fault: Fault, seconds: float) -> None:
        """An outage: for so long each of its answers is the fault."""
        self.faults["outage"] += 1
        self._outages[counterparty] = fault, self.clock_ms() + int(seconds * 1000)

    def outage(self, counterparty: Counterparty) -> Fault | None:
        """What each of its answers is just now; None: as always."""
        fault, until_ms = self._outages.get(counterparty, (None, 0))
        return fault if self.clock_ms() < until_ms and not self.quiet else None

    def kills(self, order_id: str) -> bool:
        """Whether the process that calls for this order dies of it, now."""
        left = self.poisonous.get(order_id, 0)
        self.poisonous[order_id] = left - 1
        return left > 0

    def forget_old(self, counterparty: Counterparty, key: str) -> None:
        """As a counterparty may: what it was asked for under a key, first so long ago."""
        now_ms = self.clock_ms()
        kept: dict[str, Any] = self._services[counterparty]._keys
        if now_ms - self._first_heard_ms.setdefault(key, now_ms) > KEPT_MS and kept.pop(key, None):
            self.forgotten += 1

    def result_of(self, key: str) -> Mapping[str, Any] | None:
        """What people there say over the phone: what was done under the key."""
        self._results |= {one.key: one.result for one in self.applied[self._read :]}
        self._read = len(self.applied)
        return self._results.get(key)

    def far_away(self, pause: Callable[[str, tuple[float, float]], None], dies: Callable[[], NoReturn] | None = None) -> Gateways:
        """Gateways of one process, for which others may act while a call is on its way; `dies` ends
        the process where it stands.
        """
        return over(lambda counterparty: _Far(self, counterparty, self._services[counterparty], pause, dies), LIMITS)


@dataclass(frozen=True)
class _Far:
    """A connection that takes its time, between the signing and the effect."""

    world: Counterparties
    counterparty: Counterparty
    near: Client
    pause: Callable[[str, tuple[float, float]], None]
    dies: Callable[[], NoReturn] | None

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        deadline_ms: int,
        timestamp_ms: int,
    ) -> HttpAnswer:
        self.pause("a request", CALL_SECONDS)
        key = unquote(path.rpartition("/")[2]) if method == "GET" else (headers or {})["Idempotency-Key"]

        def act() -> HttpAnswer:
            return self.near.request(method, path, body=body, headers=headers, deadline_ms=deadline_ms, timestamp_ms=timestamp_ms)

        self.world.forget_old(self.counterparty, key)
        if self.dies and self.world.kills(key.partition(":")[0]):
            act()
            self.dies()
        outage = self.world.outage(self.counterparty)
        return act() if outage is None else _play(outage, act, deadline_ms)


def effects(applied: Iterable[Applied], user_of: Mapping[str, str]) -> tuple[Effect, ...]:
    """As the audit wants them."""
    names = ("sold", "bought", "min_lot")
    return tuple(Effect(one.order_id, user_of[one.order_id], one.key, *(_amount(one.result, name) for name in names)) for one in applied)


def _amount(result: Mapping[str, Any], name: str) -> Decimal | None:
    return Decimal(result[name]) if name in result else None


def residues(placed: Mapping[str, PlacedOrder], applied: Iterable[Applied]) -> dict[str, Residue]:
    """Each order's sums, by the sandbox's own ledger."""
    sums: dict[str, dict[tuple[str, str], Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for order_id, order in placed.items():
        _post(sums[order_id], ledger.placement(order))
    for one in applied:
        _post(sums[one.order_id], _postings(placed[one.order_id], one))
    return {order_id: {place: amount for place, amount in of_order.items() if amount} for order_id, of_order in sums.items()}


def _post(sums: dict[tuple[str, str], Decimal], postings: Iterable[Posting]) -> None:
    for posting in postings:
        sums[posting.account, posting.asset] += posting.amount


def _postings(order: PlacedOrder, one: Applied) -> list[Posting]:
    match one.action:
        case Action.ADJUST:
            return ledger.adjustment(order)
        case Action.TRANSFER:
            source, destination, amount = one.request["source"], one.request["destination"], Decimal(one.request["amount"])
            paid = ledger.payout(order, amount) if destination == ledger.user(order.user_id) else []
            return ledger.move(source, destination, one.request["asset"], amount) + paid
        case Action.EXCHANGE:
            result = one.result
            return ledger.exchange(result["sell_asset"], Decimal(result["sold"]), result["buy_asset"], Decimal(result["bought"]))
