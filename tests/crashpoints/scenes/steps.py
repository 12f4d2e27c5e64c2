"""The four steps, run in place and as a chain, with whatever their counterparties answer; and the
way from one order to the next.
"""

from functools import partial

from tests.crashpoints import service
from tests.crashpoints.outcomes import BEHAVIOURS
from tests.crashpoints.scenario import A1, CLOSING, ONE_A_MESSAGE, PAIR, PLAIN_CHAIN, TRIO, WORKED, Scenario
from tests.crashpoints.scenes.recovery import sweep_and_work_later


def scenarios() -> list[Scenario]:
    """Those of this module."""
    return [*_steps(), *_interrupted(), *_stopping()]


def _every(*left_out: str) -> tuple[tuple[str, int], ...]:
    return tuple((found.name, step) for found in BEHAVIOURS if found.name not in left_out for step in found.steps)


def _steps() -> list[Scenario]:
    closing = (("done", 1), ("timeout", 4), ("rejected", 4), ("partial", 3), ("pending", 1))
    chained = tuple((name, step) for name in ("done", "timeout", "reset", "rejected", "pending", "refused_thrice") for step in (1, 3))
    return [
        Scenario(name="steps/in_place", orders=PAIR, act=service.work_one, settings=ONE_A_MESSAGE, variants=(*_every(), ("slow", 1), ("slow", 3))),
        Scenario(name="steps/close", orders=(CLOSING,), act=service.work_one, variants=closing),
        Scenario(name="steps/chain", orders=(A1,), act=service.work_all, settings=PLAIN_CHAIN, variants=(*chained, ("partial", 3))),
        Scenario(name="steps/twice", orders=(A1,), act=service.work_one, double=True),
        Scenario(name="handover/in_place", orders=TRIO, act=service.work_all, variants=(("done", 1), ("rejected", 2), ("partial_for_good", 3))),
        Scenario(name="handover/published", orders=TRIO, act=service.work_all, settings=ONE_A_MESSAGE, variants=(("done", 1), ("rejected", 2))),
    ]


def _interrupted() -> list[Scenario]:
    """Orders that wait for their time, and what becomes of them then."""
    due = partial(sweep_and_work_later, seconds=60)
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
            lives=WORKED,
            before=(before,),
            act=due,
            variants=tuple((variant, before[1]) for variant in variants),
            settings=ONE_A_MESSAGE,
        )
        for name, (before, variants) in cases.items()
    ]


def _stopping() -> list[Scenario]:
    return [
        Scenario(name="handback/before_claim", orders=PAIR, act=partial(service.work_until_stopped, calls=0)),
        Scenario(name="handback/mid_step", orders=PAIR, act=partial(service.work_until_stopped, calls=2), double=True),
        Scenario(name="handback/last_step", orders=PAIR, act=partial(service.work_until_stopped, calls=4)),
        Scenario(
            name="handback/unknown", orders=PAIR, act=partial(service.work_until_stopped, calls=1), variants=(("reset", 1), ("refused_once", 2))
        ),
    ]
