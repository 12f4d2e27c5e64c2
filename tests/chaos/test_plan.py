"""What comes is the seed's, and all kinds come."""

from collections import Counter
from itertools import pairwise

from tests.chaos.plan import EXTRAS, KINDS, plan


class TestPlan:
    def test_the_same_seed_plans_the_same_and_another_one_another(self) -> None:
        assert plan(1, 60) == plan(1, 60)
        assert plan(1, 60) != plan(2, 60)

    def test_so_many_faults_of_processes_and_servers_and_of_every_kind(self) -> None:
        for faults in (30, 60, 300):
            counts = Counter(planned.kind for planned in plan(1, faults))

            assert sum(counts[kind] for kind in KINDS) == faults
            assert all(counts[kind] for kind in (*KINDS, *EXTRAS))

    def test_a_hundred_orders_of_killed_workers_can_be_measured_in_the_full_run(self) -> None:
        counts = Counter(planned.kind.name for planned in plan(1, 300))

        assert counts["worker_kill"] >= 50

    def test_fewer_faults_than_kinds(self) -> None:
        assert sum(planned.kind in KINDS for planned in plan(1, 5)) == 5

    def test_a_target_is_rarely_hit_twice_in_a_row(self) -> None:
        targets = [planned.kind.target for planned in plan(1, 60)]

        assert sum(before == after for before, after in pairwise(targets)) <= 3
