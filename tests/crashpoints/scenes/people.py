"""What people do: retries, holds and their release, and what a second person approves, in time or
not.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from clearing.models import Intervention
from clearing.status import InterventionKind, InterventionState
from tests.crashpoints import people, service
from tests.crashpoints.outcomes import CLEARED
from tests.crashpoints.scenario import A1, ONE_A_MESSAGE, PAIR, WORKED, Life, Scenario
from tests.crashpoints.scenes.recovery import sweep_later

K = InterventionKind
HOURS: Final = 1.0  # until an intervention expires


def scenarios() -> list[Scenario]:
    """Those of this module."""
    return [*_people(), *_holds(), *_expiry()]


def _people() -> list[Scenario]:
    parts = {**ONE_A_MESSAGE, "CLEARING_ATTEMPTS_MAX": 2}
    common: dict[str, Any] = {"orders": PAIR, "lives": WORKED, "act": people.retry, "again": people.retry, "settings": parts}
    return [
        Scenario(name="people/retry_refused", before=(("refused_twice_and_parked", 2),), **common),
        Scenario(name="people/retry_rejected", before=(("rejected_once", 2),), **common),
        Scenario(name="people/retry_partial", before=(("partial_thrice", 3),), **common),
        Scenario(name="people/retry_retrying", before=(("busy", 2),), **common),
        _intervention(K.CONFIRM_DONE, before=(("timeout", 2),)),
        _intervention(K.CONFIRM_DONE, name="people/confirm_exchange", before=(("timeout", 3),)),
        _intervention(K.CONFIRM_DONE, name="people/confirm_last_step", before=(("timeout", 4),)),
        Scenario(
            name="people/finish_confirmed",
            orders=(A1,),
            lives=(*WORKED, Life(people.intervention(K.CONFIRM_DONE))),
            act=service.work_one,
            before=(("timeout", 4),),
            settings=ONE_A_MESSAGE,
        ),
        _intervention(K.CONFIRM_NOT_DONE, before=(("reset", 2),), then_retry=True),
        _intervention(K.VOID, before=(("rejected_once", 2),), ends={"A1": frozenset({"voided"})}),
        _intervention(K.RELEASE_HOLD, lives=(Life(service.consume), Life(people.hold))),
    ]


def _intervention(kind: InterventionKind, *, then_retry: bool = False, **more: Any) -> Scenario:
    act = people.intervention(kind, then_retry=then_retry)
    return Scenario(**{"name": f"people/{kind}", "orders": PAIR, "lives": WORKED, "act": act, "again": act, "settings": ONE_A_MESSAGE, **more})


def _holds() -> list[Scenario]:
    """The order changes at the counter while it is being run: it parks before its next step; in its
    last one it is cleared, with an alarm.
    """
    held, either = {"A1": frozenset({"contents_differ"})}, {"A1": frozenset({"contents_differ", CLEARED})}
    in_step_2, in_step_4 = partial(people.hold_while_it_runs, calls=2), partial(people.hold_while_it_runs, calls=4)
    answers = tuple((name, 2) for name in ("done", "refused_once", "refused_thrice", "pending", "reset", "timeout"))
    common: dict[str, Any] = {"orders": PAIR, "again": people.hold, "settings": ONE_A_MESSAGE}
    lives = (Life(service.consume), Life(in_step_2))
    return [
        Scenario(name="hold/running", act=in_step_2, variants=answers, ends=held, **common),
        Scenario(name="hold/last_step", act=in_step_4, ends=either, **common),
        _intervention(K.RELEASE_HOLD, name="hold/released", lives=lives),
    ]


def _expiry() -> list[Scenario]:
    """What nobody approves in time expires, and the order goes on waiting for people."""
    asked = (*WORKED, Life(people.ask_for(K.CONFIRM_DONE)))
    later = partial(sweep_later, seconds=HOURS * 3600 + 1)
    common: dict[str, Any] = {"orders": PAIR, "before": (("timeout", 2),), "settings": {**ONE_A_MESSAGE, "INTERVENTION_HOURS": HOURS}}
    waits = {"A1": frozenset({"timeout"})}
    return [Scenario(name="people/expired", lives=asked, act=later, ends=waits, also=_expired, double=True, **common)]


def _expired() -> Iterable[str]:
    for state in Intervention.objects.exclude(state=InterventionState.EXPIRED).values_list("state", flat=True):
        yield f"an intervention that nobody approved is {state}"
