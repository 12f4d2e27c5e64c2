"""Leadership by the lease in PostgreSQL."""

from collections.abc import Iterator
from datetime import datetime

import pytest
from django.db import connection

from base.db import call
from ops.leadership import LeaseCandidate
from tests.leadership.contract import SESSION_SECONDS, Field, LeadershipContract, each_end
from tests.support.waiting import wait_until

BREAK_OTHERS = """
    SELECT pg_terminate_backend(pid), pg_sleep(0.1) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()
"""


def rounds_seen(count: int) -> None:
    """Waits for so many beats of anybody."""
    beats: set[object] = set()

    def enough() -> bool:
        beats.update(call("SELECT beat_at FROM base_candidate", []))
        return len(beats) >= count

    wait_until(enough)


@pytest.fixture
def field() -> Iterator[Field]:
    yield from each_end(lambda name, **options: LeaseCandidate(name, seconds=SESSION_SECONDS, **options))


class TestLease(LeadershipContract):
    """The contract."""

    def test_a_silent_candidate_is_forgotten_by_the_leader(self, field: Field) -> None:
        leader = field.leading()
        call("INSERT INTO base_candidate (name) VALUES ('dead') RETURNING name", [])
        assert "dead" in leader.members()

        wait_until(lambda: "dead" not in leader.members())

        assert leader.is_leader

    def test_one_that_beat_in_the_meantime_is_not_forgotten(self, field: Field) -> None:
        leader = field.candidate()
        assert isinstance(leader, LeaseCandidate)
        call("INSERT INTO base_candidate (name) VALUES ('slow') RETURNING name", [])
        seen: dict[str, datetime] = dict(call("SELECT name, beat_at FROM base_candidate", []))
        call("UPDATE base_candidate SET beat_at = beat_at + interval '1 second' RETURNING name", [])

        leader._forget(["slow"], seen)

        assert leader.members() == ["slow"]

    def test_who_is_not_written_down_takes_no_term(self, field: Field) -> None:
        """Its row was forgotten while it stood still; the next beat writes it down again."""
        candidate = field.candidate()
        assert isinstance(candidate, LeaseCandidate)
        candidate._beat_at = candidate._clock()  # it has just beaten, and the row is gone

        candidate._campaign_round()

        assert (candidate.term, candidate.members()) == (None, [])

    def test_a_jump_of_the_databases_clock_ends_nobodys_lease(self, field: Field) -> None:
        leader = field.leading()
        other = field.running()
        wait_until(lambda: len(leader.members()) == 2)
        term = leader.term

        for moved in ("+1 day", "-1 day"):
            call("UPDATE base_candidate SET beat_at = beat_at + %s::interval RETURNING name", [moved])
            rounds_seen(7)

        assert (leader.term, other.term) == (term, None)

    def test_while_postgresql_is_away_nobody_is_silent(self, field: Field) -> None:
        leader = field.leading()
        other = field.running()
        wait_until(lambda: len(leader.members()) == 2)
        term = leader.term

        with connection.cursor() as cursor:  # the connections of both break, again and again, for longer than a lease
            for _ in range(30):
                cursor.execute(BREAK_OTHERS)

        wait_until(lambda: leader.is_leader)
        assert (leader.term, other.term) == (term, None)
