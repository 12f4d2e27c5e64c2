"""Counterparties that aren't called for a while: a breaker that opens, is probed, tried and closed;
a pause by people; a rate limit.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from clearing.gateways import counterparty_state
from tests.crashpoints import people, service
from tests.crashpoints.scenario import A1, B1, C1, ONE_A_MESSAGE, PAIR, Life, Scenario
from tests.crashpoints.scenes.recovery import sweep_and_work_later, sweep_later

SOON_OPEN: Final = {"BREAKER_FAILURES_MIN": 3}
SELDOM: Final = {"COUNTERPARTY_RATES": dict.fromkeys(("counter", "fund", "trading"), 0.05)}  # a second: a slow machine makes no second call of it


def scenarios() -> list[Scenario]:
    """Those of this module."""
    return [*_breakers(), *_pauses()]


def _breakers() -> list[Scenario]:
    open_ = (Life(service.consume), Life(service.work_all))
    probe, trial = partial(sweep_later, seconds=2), partial(sweep_and_work_later, seconds=5)
    common: dict[str, Any] = {"orders": (A1, B1, C1), "settings": SOON_OPEN, "also": _all_called}
    down: dict[str, Any] = {"before": (("outage", 1),), **common}
    return [
        Scenario(name="breaker/opens", act=service.work_all, variants=(("outage", 1),), **common),
        Scenario(name="breaker/probed", lives=open_, act=probe, variants=(("done", 1), ("mute_probe", 0)), double=True, **down),
        Scenario(name="breaker/tried", lives=(*open_, Life(probe)), act=trial, variants=(("done", 1), ("mute", 1)), **down),
    ]


def _pauses() -> list[Scenario]:
    common: dict[str, Any] = {"orders": PAIR, "also": _all_called}
    return [
        Scenario(name="pause/by_people", act=people.pause_and_resume, again=people.resume, settings=ONE_A_MESSAGE, **common),
        Scenario(name="pause/rate", act=service.work_all, settings=SELDOM, **common),
    ]


def _all_called() -> Iterable[str]:
    now = counterparty_state.read()
    if now.breakers or now.paused:
        yield f"at the end not everybody is called: {now.breakers}, {now.paused}"
