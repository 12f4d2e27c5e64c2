"""What is going on when a process dies: a registry. A new scenario is an entry of SCENARIOS; its boundaries are found by running it.

`lives` are the processes before, `act` is what the dying process does, `again` what its owner does once more after its death (the consumer's
restart, a person's second try). A variant is (a counterparty's behaviour, the step that it is applied to), from the act on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from base.incarnation import life
from clearing import store
from clearing.models import Clearing, StatusChange
from clearing.status import InterventionKind, State
from tests.crashpoints import people, service
from tests.crashpoints.outcomes import BEHAVIOURS, BY_NAME, CLEARED, Behaviour
from tests.crashpoints.points import Phase, Point
from tests.crashpoints.process import Process
from tests.orders.messages import interface_row, message, row, updated

Body = Callable[[Process], None]
K = InterventionKind


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
        columns = {"id": str(self.sequence), "user_id": self.user_id, "sequence": str(self.sequence), "direction": direction, "asset": self.asset}
        return row(self.order_id, **{**columns, "contract_id": self.contract_id or f"C-{self.order_id}", "created_at": at, **changes})

    def interface_row(self, start_ms: int) -> dict[str, Any]:
        """Its row in the counter's interface."""
        columns = {"id": str(self.sequence), "user_id": self.user_id, "sequence": str(self.sequence), "direction": self.direction}
        contract = self.contract_id or f"C-{self.order_id}"
        return interface_row(self.order_id, **columns, asset=self.asset, contract_id=contract, created_ms=start_ms + self.sequence)


@dataclass(frozen=True, slots=True)
class Life:
    """A process before the act; it dies where it is told to."""

    body: Body
    dies_at: Point | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Named as `--scenario` takes it. `ends`: how orders other than A1 end ("cleared" unless told), or all where no behaviour parks A1."""

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
CLOSING = Order("A1", "1001", 1, direction="CLOSE", asset="ETH")
PAIR: Final = (A1, A2)
ONE_A_MESSAGE: Final = {"CLEARING_NEXT_IN_PLACE_MAX": 1}
PLAIN_CHAIN: Final = {"CLEARING_CONTINUE_IN_PLACE": False}


def _every(*left_out: str) -> tuple[tuple[str, int], ...]:
    return tuple((found.name, step) for found in BEHAVIOURS if found.name not in left_out for step in found.steps)


def _call(step: int, phase: Phase, nth: int = 1) -> Point:
    called = {1: "counter POST /v1/adjustments", 2: "fund POST /v1/transfers", 3: "trading POST /v1/exchanges", 4: "fund POST /v1/transfers"}[step]
    return Point(f"call {called} step {step}", nth, phase)


def _sweep_later(process: Process, *, seconds: float) -> None:
    process.advance(seconds)
    service.sweep(process)


def _sweep_and_work_later(process: Process, *, seconds: float) -> None:
    _sweep_later(process, seconds=seconds)
    service.work(process)


def _stall(_: Process) -> None:
    """What should never be: a lane with waiting orders and none active, as if A1 had never been queued."""
    Clearing.objects.filter(order__order_id="A1").update(state=State.WAITING, epoch=0)
    StatusChange.objects.filter(clearing__order__order_id="A1", to_state=State.QUEUED).delete()


def _lose_messages(process: Process) -> None:
    while process.ask("take")[1]:
        pass


def _wipe(process: Process) -> None:
    process.ask("wipe")


def _mixed_messages(orders: tuple[Order, ...], start_ms: int) -> list[bytes]:
    """Orders of two users, one that comes twice, one that changes at the counter, and what nobody can read."""
    first, second, other = (message(order.row(start_ms)) for order in orders)
    changed = updated(orders[2].row(start_ms, quantity="0.070000000000000000"), quantity="0.050000000000000000")
    return [first, b"{", second, first, other, changed]


def _intake() -> list[Scenario]:
    together = (A1, A2, B1)
    held = {"B1": frozenset({"contents_differ"})}
    few = {"INTAKE_BATCH_ROWS_MAX": 2}
    return [
        Scenario(name="ingest/consumer", orders=together, lives=(), act=service.consume, again=service.consume, double=True),
        Scenario(
            name="ingest/mixed",
            orders=together,
            lives=(),
            act=service.consume,
            again=service.consume,
            settings=few,
            ends=held,
            messages=_mixed_messages,
        ),
        Scenario(
            name="ingest/gap",
            orders=together,
            lives=(),
            act=service.gap_pass,
            again=service.gap_pass,
            by_interface=True,
            settings={"GAP_PAGE_ROWS": 2},
        ),
    ]


def _steps() -> list[Scenario]:
    closing = (("done", 1), ("timeout", 4), ("rejected", 4), ("partial", 3), ("pending", 1))
    chained = tuple((name, step) for name in ("done", "timeout", "reset", "rejected", "pending", "refused_thrice") for step in (1, 3))
    return [
        Scenario(name="steps/in_place", orders=PAIR, act=service.work_one, settings=ONE_A_MESSAGE, variants=(*_every(), ("slow", 1), ("slow", 3))),
        Scenario(name="steps/close", orders=(CLOSING,), act=service.work_one, variants=closing),
        Scenario(name="steps/chain", orders=(A1,), act=_work_all, settings=PLAIN_CHAIN, variants=(*chained, ("partial", 3))),
        Scenario(name="steps/twice", orders=(A1,), act=service.work_one, double=True),
        Scenario(name="handover/in_place", orders=(A1, A2, A3), act=_work_all, variants=(("done", 1), ("rejected", 2), ("partial_for_good", 3))),
        Scenario(name="handover/published", orders=(A1, A2, A3), act=_work_all, settings=ONE_A_MESSAGE, variants=(("done", 1), ("rejected", 2))),
    ]


def _work_all(process: Process) -> None:
    service.work(process)


def _interrupted() -> list[Scenario]:
    """Orders that wait for their time, and what becomes of them then."""
    worked = (Life(service.consume), Life(service.work_one))
    due = partial(_sweep_and_work_later, seconds=60)
    silent = ("timeout", "reset", "error_503", "key_reused", "rejected")
    cases = {
        "retry/due": (("refused_thrice", 2), ("done", "refused_once", "refused_thrice", "rejected", "timeout", "reset", "pending", "busy")),
        "unknown/done": (("timeout", 2), ("done",)),
        "unknown/nothing": (("reset", 2), ("done", "refused_thrice", *silent, "pending", "stale")),
        "unknown/silent": (("timeout_and_silence", 3), ("done",)),
        "pending/due": (("pending", 2), ("done",)),
    }
    return [
        Scenario(
            name=name,
            orders=PAIR,
            lives=worked,
            before=(before,),
            act=due,
            variants=tuple((variant, before[1]) for variant in variants),
            settings=ONE_A_MESSAGE,
        )
        for name, (before, variants) in cases.items()
    ]


def _sweeps() -> list[Scenario]:
    killed = (Life(service.consume), Life(service.work_one, _call(2, Phase.ON_ITS_WAY)))
    answered = (Life(service.consume), Life(service.work_one, _call(3, Phase.AFTER)))
    unpublished = (Life(service.consume), Life(_lose_messages))
    due = (Life(service.consume), Life(service.work_one))
    stopped = (Life(service.consume), Life(_stop_with_a_claim))
    everything = (*killed, Life(service.work_one, _call(4, Phase.AFTER)), Life(_lose_messages))
    thrice = (Life(service.consume), *(Life(service.work_one, _call(1, Phase.BEFORE)), Life(service.watch_die)) * 3)
    late, soon = partial(_sweep_later, seconds=15), partial(_sweep_later, seconds=3)
    return [
        Scenario(name="sweep/dead_worker", orders=PAIR, lives=killed, act=service.watch_die, double=True),
        Scenario(name="sweep/expired_claim", orders=PAIR, lives=answered, act=late, double=True),
        Scenario(name="sweep/stopped_worker", orders=PAIR, lives=stopped, act=service.sweep, double=True),
        Scenario(name="sweep/gone_message", orders=(A1, B1), lives=unpublished, act=soon, double=True),
        Scenario(name="sweep/wiped_broker", orders=(A1, B1), lives=(Life(service.consume), Life(_wipe)), act=service.sweep, double=True),
        Scenario(name="sweep/stalled_lane", orders=PAIR, lives=(*unpublished, Life(_stall)), act=service.sweep, double=True),
        Scenario(name="sweep/due", orders=PAIR, lives=due, before=(("reset", 2),), act=partial(_sweep_later, seconds=60), double=True),
        Scenario(name="sweep/everything", orders=(A1, A2, B1), lives=everything, act=late, double=True),
        Scenario(name="sweep/suspect", orders=PAIR, lives=thrice, act=service.work_one, ends={"A1": frozenset({CLEARED, "poison"})}),
    ]


def _stop_with_a_claim(process: Process) -> None:
    """A worker that ended while it held a claim: what it couldn't hand back any more."""
    service.be_a_worker()
    with process.doors.paused():
        found = Clearing.objects.get(order__order_id="A1")
        process.ask("take")
        store.claim(found.pk, found.epoch, worker=lambda: life().name, gives_up=lambda: True)
        life().end()


def _stopping() -> list[Scenario]:
    return [
        Scenario(name="handback/before_claim", orders=PAIR, act=partial(service.work_until_stopped, calls=0)),
        Scenario(name="handback/mid_step", orders=PAIR, act=partial(service.work_until_stopped, calls=2), double=True),
        Scenario(name="handback/last_step", orders=PAIR, act=partial(service.work_until_stopped, calls=4)),
        Scenario(
            name="handback/unknown", orders=PAIR, act=partial(service.work_until_stopped, calls=1), variants=(("reset", 1), ("refused_once", 2))
        ),
    ]


def _people() -> list[Scenario]:
    parked = (Life(service.consume), Life(service.work_one))
    parts = {**ONE_A_MESSAGE, "CLEARING_ATTEMPTS_MAX": 2}
    common: dict[str, Any] = {"orders": PAIR, "lives": parked, "act": people.retry, "again": people.retry, "settings": parts}
    return [
        Scenario(name="people/retry_refused", before=(("refused_twice_and_parked", 2),), **common),
        Scenario(name="people/retry_rejected", before=(("rejected_once", 2),), **common),
        Scenario(name="people/retry_partial", before=(("partial_thrice", 3),), **common),
        Scenario(name="people/retry_retrying", before=(("busy", 2),), **common),
        _intervention(K.CONFIRM_DONE, before=(("timeout", 2),)),
        _intervention(K.CONFIRM_NOT_DONE, before=(("reset", 2),), then_retry=True),
        _intervention(K.VOID, before=(("rejected_once", 2),), ends={"A1": frozenset({"voided"})}),
        _intervention(K.RELEASE_HOLD, lives=(Life(service.consume), Life(people.hold))),
    ]


def _intervention(kind: InterventionKind, *, then_retry: bool = False, **more: Any) -> Scenario:
    act = people.intervention(kind, then_retry=then_retry)
    lives = (Life(service.consume), Life(service.work_one))
    return Scenario(**{"name": f"people/{kind}", "orders": PAIR, "lives": lives, "act": act, "again": act, "settings": ONE_A_MESSAGE, **more})


def _restore() -> list[Scenario]:
    marked: dict[str, Any] = {"orders": (A1, A2, B1), "act": service.restored(), "again": service.restored()}
    midway = (Life(service.consume), Life(service.work_one, _call(3, Phase.AFTER)))
    return [
        Scenario(name="restore/queued", **marked),
        Scenario(name="restore/midway", lives=midway, double=True, **marked),
    ]


SCENARIOS: Final = (*_intake(), *_steps(), *_interrupted(), *_sweeps(), *_stopping(), *_people(), *_restore())
GROUPS: Final = tuple(Group(scenario, BY_NAME[name], step) for scenario in SCENARIOS for name, step in scenario.variants)
