"""The registry of what is going on when a process dies. A new scenario is an entry of a module of
`scenes`; its boundaries are found by running it.

`lives` are the processes before, `act` is what the dying process does, `again` what its owner does
once more after its death (the consumer's restart, a person's second try). A variant is (a
counterparty's behaviour, the step that it is applied to), from the act on.
"""

from typing import Final

from tests.crashpoints.outcomes import BY_NAME
from tests.crashpoints.scenario import Group
from tests.crashpoints.scenes import counterparties, intake, leading, people, recovery, steps

SCENES: Final = (intake, steps, recovery, people, counterparties, leading)
SCENARIOS: Final = tuple(scenario for scene in SCENES for scenario in scene.scenarios())
GROUPS: Final = tuple(Group(scenario, BY_NAME[name], step) for scenario in SCENARIOS for name, step in scenario.variants)
