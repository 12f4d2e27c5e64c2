"""What leadership promises, whoever keeps it: run on the lease in PostgreSQL (test_lease.py) and on
a real ZooKeeper (test_zookeeper.py).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from pytest_django import Settings

from base import fence
from base.clock import ServiceNow
from base.fence import TermOutdated, fence_of, fenced
from base.models import LeaderTerm
from base.process_name import new_name
from ops.leadership import LeaderCandidate
from tests.support.waiting import wait_until

SESSION_SECONDS = 2.0


@dataclass
class Field:
    """Makes candidates and sees to their end."""

    make: Callable[..., LeaderCandidate]
    candidates: list[LeaderCandidate] = field(default_factory=list)

    def candidate(self, **options: Any) -> LeaderCandidate:
        made = self.make(new_name(), **options)
        self.candidates.append(made)
        return made

    def running(self) -> LeaderCandidate:
        made = self.candidate()
        made.campaign()
        return made

    def leading(self) -> LeaderCandidate:
        made = self.running()
        wait_until(lambda: made.is_leader)
        return made

    def leaders(self) -> list[LeaderCandidate]:
        return [candidate for candidate in self.candidates if candidate.is_leader]

    def end(self) -> None:
        for candidate in self.candidates:
            candidate.resign()


def freeze(candidate: LeaderCandidate) -> None:
    """From now on its thread does nothing, as if the process were stopped; its clock goes on."""
    frozen = time.monotonic()
    candidate._round = lambda: 3600.0 if time.monotonic() >= frozen else 0.0  # type: ignore[method-assign]
    candidate._wake()


class LeadershipContract:
    """The suite. A subclass gives `field`."""

    @pytest.fixture(autouse=True)
    def database(self, transactional_db: None) -> None:
        """Candidates' threads have connections of their own."""

    def test_who_stands_alone_leads_under_a_new_term(self, field: Field) -> None:
        before = fence.current().term

        leader = field.leading()

        assert leader.term == before + 1
        assert (fence.current().term, fence.current().leader) == (leader.term, leader.name)

    def test_of_many_one_leads(self, field: Field) -> None:
        for _ in range(4):
            field.running()
        wait_until(lambda: len(field.candidates[0].members()) == 4 and field.leaders())

        seen = set()
        for _ in range(50):
            seen.add(tuple(leader.name for leader in field.leaders()))
            time.sleep(0.01)

        assert max(map(len, seen)) == 1  # it may believe in itself for a moment less, on a machine that stands still

    def test_who_resigns_leads_no_more_from_that_moment_and_another_does_soon(self, field: Field) -> None:
        old = field.leading()
        old_term = old.term
        other = field.running()
        wait_until(lambda: len(old.members()) == 2)

        old.resign()

        assert not old.is_leader
        wait_until(lambda: other.is_leader)
        assert LeaderTerm.objects.get().reason == "the leader stood down"  # and not: its session ended
        assert other.term == (old_term or 0) + 1

    def test_a_hand_over_is_written_down_with_its_reason(self, field: Field) -> None:
        old = field.leading()
        other = field.running()
        wait_until(lambda: len(old.members()) == 2)

        old.resign()
        wait_until(lambda: other.is_leader)

        term = LeaderTerm.objects.get()
        assert (term.leader, term.previous, term.reason) == (other.name, old.name, "the leader stood down")

    def test_who_falls_silent_is_followed_after_its_session(self, field: Field) -> None:
        old = field.leading()
        other = field.running()
        wait_until(lambda: len(old.members()) == 2)

        self.silence(old)
        wait_until(lambda: other.is_leader)

        assert not old.is_leader
        assert LeaderTerm.objects.get().previous == old.name

    def silence(self, candidate: LeaderCandidate) -> None:
        freeze(candidate)

    def test_who_falls_silent_stops_acting_before_another_leads(self, field: Field) -> None:
        old = field.leading()
        other = field.running()
        wait_until(lambda: len(old.members()) == 2)

        self.silence(old)
        both = False
        deadline = time.monotonic() + 15 * SESSION_SECONDS
        while not other.is_leader and time.monotonic() < deadline:
            both = both or (old.is_leader and other.is_leader)
            time.sleep(0.005)

        assert other.is_leader
        assert not both
        assert not old.is_leader

    def test_an_old_leader_that_wakes_up_has_its_writes_refused(self, field: Field) -> None:
        old = field.leading()
        old_term = old.term
        assert old_term is not None
        other = field.running()
        old.resign()
        wait_until(lambda: other.is_leader)

        with pytest.raises(TermOutdated), fenced(fence_of(old_term)):
            LeaderTerm.objects.update(reason="written by the old leader")

        assert LeaderTerm.objects.get().reason != "written by the old leader"

    def test_a_leader_frozen_inside_its_transaction_does_not_hold_the_next_one_up(self, field: Field, settings: Settings) -> None:
        settings.FENCE_MS_MAX = 1_000
        old = field.leading()
        term = old.term
        assert term is not None
        other = field.running()
        wait_until(lambda: len(old.members()) == 2)

        def freeze_inside() -> None:
            with transaction.atomic():
                fence_of(term)()
                old.resign()
                wait_until(lambda: other.is_leader)
                connection.cursor().execute("SELECT 1")

        connection.cursor().execute("SET idle_in_transaction_session_timeout = 0")  # the fence's own limit ends it, or nothing
        with pytest.raises(DatabaseError):
            freeze_inside()
        connection.close()

    def test_one_whose_term_was_taken_leads_no_more_and_says_so(self, field: Field, caplog: pytest.LogCaptureFixture) -> None:
        leader = field.leading()
        taken = (leader.term or 0) + 5

        LeaderTerm.objects.update(term=taken, leader="somebody else", since=ServiceNow())

        wait_until(lambda: not leader.is_leader)
        wait_until(lambda: "another took the term while we led" in caplog.text)

    def test_it_stands_again_after_a_while(self, field: Field) -> None:
        leader = field.leading()
        taken = (leader.term or 0) + 5
        LeaderTerm.objects.update(term=taken, leader="somebody else", since=ServiceNow())
        wait_until(lambda: not leader.is_leader)

        wait_until(lambda: leader.is_leader, seconds=30 * SESSION_SECONDS)

        assert leader.term == taken + 1

    def test_who_resigned_may_stand_again_under_a_new_term(self, field: Field) -> None:
        leader = field.leading()
        first = leader.term
        leader.resign()

        leader.campaign()
        wait_until(lambda: leader.is_leader)

        assert leader.term == (first or 0) + 1

    def test_members_are_those_who_stand_the_leader_first(self, field: Field) -> None:
        leader = field.leading()
        others = [field.running() for _ in range(2)]
        wait_until(lambda: len(leader.members()) == 3)

        assert leader.members()[0] == leader.name
        assert set(leader.members()) == {leader.name, *(other.name for other in others)}
        others[0].resign()
        wait_until(lambda: set(leader.members()) == {leader.name, others[1].name})

    def test_a_leader_whose_process_stands_still_hands_over(self, field: Field) -> None:
        stuck = field.candidate(stall_seconds=1.0)
        stuck.campaign()
        wait_until(lambda: stuck.is_leader)

        other = field.running()

        wait_until(lambda: other.is_leader)
        assert not stuck.is_leader
        assert LeaderTerm.objects.get().reason == "the leader stood down"

    def test_it_stands_again_when_its_process_goes_on(self, field: Field) -> None:
        stuck = field.candidate(stall_seconds=1.0)
        stuck.campaign()
        wait_until(lambda: stuck.is_leader)
        wait_until(lambda: not stuck.is_leader)

        def goes_on() -> bool:
            stuck.touch()
            return stuck.is_leader

        wait_until(goes_on)


def each_end(make: Callable[..., LeaderCandidate]) -> Iterator[Field]:
    """The body of a `field` fixture."""
    made = Field(make)
    yield made
    made.end()
