"""A small run of `make lossy-intake`; docs/architecture.md says how to make the big ones. `make
smoke` runs `make kill-consumer` small.
"""

import pytest

from stack.rundir import CHECKOUT
from tests.endurance import lossy

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("seed", [1])
def test_a_lossy_pipeline_loses_no_order(seed: int) -> None:
    run = lossy.Run(orders=700, rate=150, seed=seed, delay_seconds_max=6.0, durable=False)

    outcome = run.measure(CHECKOUT / ".run" / "endurance-lossy")

    assert outcome.failures == []
    assert outcome.comparison.dropped.count > 5
    assert outcome.comparison.sources["gap"] >= outcome.comparison.dropped.count
