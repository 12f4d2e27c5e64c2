"""Real processes that campaign for leadership and write, under faults: at no moment do two terms
both write, by the database's word.
"""

import random
from collections.abc import Iterator

import pytest

from stack.rundir import CHECKOUT
from tests.leadership.faults import SESSION_SECONDS, Faults
from tests.leadership.trial import Trial

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]
LET_ALL_THROUGH = "CREATE OR REPLACE FUNCTION base_fence(p_term bigint, p_ms int) RETURNS boolean LANGUAGE sql AS 'SELECT true'"


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    folder = CHECKOUT / ".run" / "faults-test"
    left = folder / "left-by-an-earlier-run"
    folder.mkdir(parents=True, exist_ok=True)
    left.touch()
    with Trial(folder, 0, SESSION_SECONDS) as started:
        assert not left.exists()  # as the fence that the last test here replaces would be
        yield started


class TestFaults:
    def test_on_the_lease_in_postgresql(self, trial: Trial) -> None:
        Faults(trial, random.Random(random.randrange(10**6))).run(count=8)

        found = trial.findings()
        assert (found["overlaps"], found["terms_of_two_writers"]) == (0, 0), found
        assert found["terms"] > 2
        assert found["writes"] > 100

    def test_the_audit_sees_it_where_nothing_fences_an_old_leader_off(self, trial: Trial) -> None:
        """After the other: from here on nothing is fenced."""
        overlaps = trial.findings()["overlaps"]
        trial.query(LET_ALL_THROUGH)
        faults = Faults(trial, random.Random(1))
        trial.await_write(after=trial.last_write()[0], seconds=60)
        for _ in range(5):
            leader = trial.leader()
            assert leader is not None
            faults.sigstop(leader)
            trial.await_write(after=trial.last_write()[0], seconds=60)
            if trial.findings()["overlaps"] > overlaps:
                return
        pytest.fail("nobody who was not the leader any more has written")
