"""Leadership: a term begins, goes on, is handed over or is taken over, while an order waits for the
leader's sweep.
"""

from typing import Any, Final

from tests.crashpoints import leaders, service
from tests.crashpoints.scenario import A1, Life, Scenario
from tests.crashpoints.scenes.recovery import lose_messages

UNSENT: Final = (Life(service.consume), Life(lose_messages))


def scenarios() -> list[Scenario]:
    """Those of this module."""
    common: dict[str, Any] = {"orders": (A1,), "again": leaders.take_over}
    led = (Life(service.consume), Life(leaders.lead), Life(lose_messages))
    return [
        Scenario(name="lead/begin", lives=UNSENT, act=leaders.lead, also=leaders.one_leads(1), double=True, **common),
        Scenario(name="lead/hand_over", lives=UNSENT, act=leaders.lead_and_hand_over, also=leaders.one_leads(1), double=True, **common),
        Scenario(name="lead/take_over", lives=led, act=leaders.take_over, also=leaders.one_leads(2), double=True, **common),
    ]
