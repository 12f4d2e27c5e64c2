"""Small runs of the two endurance commands; docs/architecture.md says how to make the big ones."""

import pytest

from stack.rundir import CHECKOUT
from tests.endurance import kills, lossy

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("seed", [1])
def test_a_lossy_pipeline_loses_no_order(seed: int) -> None:
    run = lossy.Run(orders=1_500, rate=150, seed=seed, delay_seconds_max=6.0, durable=False)

    outcome = run.measure(CHECKOUT / ".run" / "endurance-lossy")

    assert outcome.failures == []
    assert outcome.comparison.dropped.count > 10
    assert outcome.comparison.sources["gap"] >= outcome.comparison.dropped.count


def test_a_consumer_that_is_killed_again_and_again_loses_no_order() -> None:
    run = kills.Run(orders=500, kills=3, rate=50, seed=2, durable=False)

    outcome = run.measure(CHECKOUT / ".run" / "endurance-kills")

    assert (outcome.failures, outcome.kills) == ([], 3)
