"""What a counterparty may do with a step, of each outcome class one or more, and how the order must
end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from clearing.gateways.fake import Fault, FaultKind
from ops.recovery.probe import KEY as PROBE
from tests.crashpoints.books import ANY_ORDER, Script

ALWAYS: Final = 1_000
CLEARED: Final = "cleared"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`scripts` are for the step that it is applied to; `ends`: "cleared", or the codes that the
    order may be parked with.
    """

    name: str
    scripts: tuple[Script, ...] = ()
    ends: frozenset[str] = frozenset({CLEARED})
    settings: Mapping[str, object] = field(default_factory=dict)
    steps: tuple[int, ...] = (1, 2, 3, 4)

    def at(self, step: int, order_id: str = "A1") -> list[Script]:
        """Its scripts for a step of an order, new each time: they count down."""
        return [replace(script, step=step, order_id=script.order_id or order_id) for script in self.scripts]


def _script(kind: FaultKind, times: int = 1, *, asked: bool = False, order_id: str = "", **fields: object) -> Script:
    return Script(0, Fault(kind=kind, **fields), times, asked, order_id)  # type: ignore[arg-type]


def _parked(*codes: str) -> frozenset[str]:
    return frozenset(codes)


BEHAVIOURS: Final = (
    Behaviour("done"),
    # surely not applied
    Behaviour("refused_once", (_script(FaultKind.UNREACHABLE),)),
    Behaviour("refused_thrice", (_script(FaultKind.UNREACHABLE, 3),)),
    Behaviour("busy", (_script(FaultKind.STATUS, status=429, latency_ms=1_000),)),
    Behaviour("stale", (_script(FaultKind.STALE),)),
    Behaviour("refused_for_good", (_script(FaultKind.UNREACHABLE, ALWAYS),), _parked("connection_refused"), {"CLEARING_ATTEMPTS_MAX": 3}),
    Behaviour("forbidden", (_script(FaultKind.STATUS, status=403),)),
    Behaviour("unsigned", (_script(FaultKind.STATUS, status=401, code="signature_wrong"),), steps=(2,)),
    # finally refused
    Behaviour("rejected", (_script(FaultKind.REFUSE, ALWAYS, status=400),), _parked("insufficient_funds")),
    # still at it
    Behaviour("pending", (_script(FaultKind.IN_PROGRESS, latency_ms=1_500),)),
    # unknown, without an effect
    Behaviour("reset", (_script(FaultKind.RESET),)),
    Behaviour("error_503", (_script(FaultKind.STATUS, status=503),)),
    # unknown, after the effect
    Behaviour("timeout", (_script(FaultKind.APPLY_THEN_TIMEOUT),)),
    Behaviour("error_500", (_script(FaultKind.APPLY_THEN_5XX),)),
    Behaviour("garbage", (_script(FaultKind.GARBAGE),)),
    Behaviour("timeout_and_silence", (_script(FaultKind.APPLY_THEN_TIMEOUT), _script(FaultKind.RESET, 2, asked=True))),
    # the rest
    Behaviour("key_reused", (_script(FaultKind.STATUS, ALWAYS, status=422, code="key_reused"),), _parked("key_reused")),
    Behaviour("partial", (_script(FaultKind.PARTIAL, fraction=Decimal("0.5")),), steps=(3,)),
    Behaviour("partial_for_good", (_script(FaultKind.PARTIAL, ALWAYS, fraction=Decimal("0.1")),), _parked("partial_execution"), steps=(3,)),
)
# For some scenarios alone, and what happened before the act. Every order clears in the end.
EARLIER: Final = (
    Behaviour("slow", (_script(FaultKind.IN_PROGRESS, latency_ms=20_000),)),  # who takes the claim over finds it in progress
    Behaviour("refused_twice_and_parked", (_script(FaultKind.UNREACHABLE, 3),)),
    Behaviour("rejected_once", (_script(FaultKind.REFUSE, status=400),)),
    Behaviour("outage", (_script(FaultKind.STATUS, 3, order_id=ANY_ORDER, status=503),)),  # of everybody's calls, as often as opens the breaker
    Behaviour("mute", (_script(FaultKind.RESET, asked=True),)),
    Behaviour("mute_probe", (_script(FaultKind.RESET, asked=True, order_id=PROBE),)),
    Behaviour("partial_thrice", (_script(FaultKind.PARTIAL, 3, fraction=Decimal("0.1")),)),
)
BY_NAME: Final = {behaviour.name: behaviour for behaviour in (*BEHAVIOURS, *EARLIER)}
