"""What the sweep finds: claims of the dead, lost messages, due times, stalled lanes, suspects and
poison, and whom to remind.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from base.incarnation import registration
from clearing.gateways import counterparty_state
from clearing.models import Clearing, StatusChange
from clearing.status import State
from clearing.store import claims
from tests.crashpoints import people, service
from tests.crashpoints.outcomes import CLEARED
from tests.crashpoints.points import Phase
from tests.crashpoints.process import Process
from tests.crashpoints.scenario import A1, A2, B1, PAIR, WORKED, Life, Scenario, call_of
from tests.support.states import any_transition, rewritable

REMINDER_SECONDS: Final = 900
SUSPECT_DEATHS: Final = 3  # then it runs alone
POISON_DEATHS: Final = 2  # there, and it is parked


def scenarios() -> list[Scenario]:
    """Those of this module."""
    return [*_sweeps(), *_suspects(), *_reminders()]


def sweep_later(process: Process, *, seconds: float) -> None:
    """So long afterwards somebody sweeps."""
    process.advance(seconds)
    service.sweep(process)


def sweep_and_work_later(process: Process, *, seconds: float) -> None:
    """The same, and a worker runs what the sweep sent."""
    sweep_later(process, seconds=seconds)
    service.work(process)


def _stall(_: Process) -> None:
    """What should never be: a lane with waiting orders and none active, as if A1 had never been
    queued.
    """
    with any_transition():
        Clearing.objects.filter(order__order_id="A1").update(state=State.WAITING, epoch=0)
    with rewritable():
        StatusChange.objects.filter(clearing__order__order_id="A1", to_state=State.QUEUED).delete()


def lose_messages(process: Process) -> None:
    """Whatever is in the broker's queues is gone."""
    while process.ask("take")[1]:
        pass


def _wipe(process: Process) -> None:
    process.ask("wipe")


def _sweeps() -> list[Scenario]:
    killed = (Life(service.consume), Life(service.work_one, call_of(2, Phase.ON_ITS_WAY)))
    answered = (Life(service.consume), Life(service.work_one, call_of(3, Phase.AFTER)))
    unpublished = (Life(service.consume), Life(lose_messages))
    stopped = (Life(service.consume), Life(_stop_with_a_claim))
    everything = (*killed, Life(service.work_one, call_of(4, Phase.AFTER)), Life(lose_messages))
    late, soon = partial(sweep_later, seconds=15), partial(sweep_later, seconds=3)
    return [
        Scenario(name="sweep/dead_worker", orders=PAIR, lives=killed, act=service.watch_die, double=True),
        Scenario(name="sweep/expired_claim", orders=PAIR, lives=answered, act=late, double=True),
        Scenario(name="sweep/stopped_worker", orders=PAIR, lives=stopped, act=service.sweep, double=True),
        Scenario(name="sweep/gone_message", orders=(A1, B1), lives=unpublished, act=soon, double=True),
        Scenario(name="sweep/wiped_broker", orders=(A1, B1), lives=(Life(service.consume), Life(_wipe)), act=service.sweep, double=True),
        Scenario(name="sweep/stalled_lane", orders=PAIR, lives=(*unpublished, Life(_stall)), act=service.sweep, double=True),
        Scenario(name="sweep/due", orders=PAIR, lives=WORKED, before=(("reset", 2),), act=partial(sweep_later, seconds=60), double=True),
        Scenario(
            name="sweep/back",
            orders=PAIR,
            lives=(*WORKED, Life(_outage)),
            before=(("reset", 2),),
            act=service.sweep,
            settings={"RETRY_BASE_MS": 30_000},  # not due by itself before the sweep, however slow the machine
            double=True,
        ),
        Scenario(name="sweep/everything", orders=(A1, A2, B1), lives=everything, act=late, double=True),
    ]


def _outage(_: Process) -> None:
    """The fund was away and is back: its breaker has closed."""
    counterparty_state.open_breaker("fund", "connection_refused", refuses=False, actor="test")
    counterparty_state.half_open("fund", actor="test")
    counterparty_state.close("fund", actor="test")


def _stop_with_a_claim(process: Process) -> None:
    """A worker that ended while it held a claim: what it couldn't hand back any more."""
    service.be_a_worker()
    with process.doors.paused():
        found = Clearing.objects.get(order__order_id="A1")
        process.ask("take")
        claims.claim(found.pk, found.epoch, worker=lambda: registration().name, gives_up=lambda: True)
        registration().end()


def _suspects() -> list[Scenario]:
    """Orders whose workers died: they run alone, and so many deaths there park them."""
    dies = (Life(service.work_one, call_of(1, Phase.BEFORE)), Life(service.watch_die))
    suspect = (Life(service.consume), *dies * SUSPECT_DEATHS)
    poison = (*suspect, *dies * POISON_DEATHS)
    dying: dict[str, Any] = {"orders": PAIR, "lives": poison[:-1], "ends": {"A1": frozenset({"poison"})}}
    either = {"A1": frozenset({CLEARED, "poison"})}
    return [
        Scenario(name="sweep/suspect", orders=PAIR, lives=suspect, act=service.work_one, ends=either),
        Scenario(name="sweep/poison", act=service.watch_die, again=service.watch_die, **dying),
        Scenario(name="people/retry_poison", orders=PAIR, lives=poison, act=people.retry, again=people.retry),
    ]


def _reminders() -> list[Scenario]:
    parked = {"A1": frozenset({"insufficient_funds"})}
    later = partial(sweep_later, seconds=REMINDER_SECONDS + 1)
    settings = {"PARKED_REMINDER_SECONDS": REMINDER_SECONDS}
    return [
        Scenario(
            name="sweep/reminder", orders=PAIR, lives=WORKED, before=(("rejected", 2),), act=later, ends=parked, settings=settings, also=_reminded
        ),
    ]


def _reminded() -> Iterable[str]:
    if not Clearing.objects.filter(order__order_id="A1", reminded_at__isnull=False).exists():
        yield "nobody was reminded of A1"
