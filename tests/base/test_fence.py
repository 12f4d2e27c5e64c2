"""The fence: what a term may write, and how long it may keep the next one waiting."""

import threading
import time
from collections.abc import Iterator

import pytest
from django.db import DatabaseError, InterfaceError, connection, transaction
from pytest_django import Settings

from base import fence
from base.db import call
from base.fence import TermOutdated, fence_of, fenced, no_fence
from base.models import Candidate, LeaderTerm
from ops.leadership import terms


@pytest.fixture(autouse=True)
def term_seven(transactional_db: None) -> Iterator[None]:
    LeaderTerm.objects.create(term=7, leader="one")
    yield
    connection.close()


def write(name: str) -> None:
    Candidate.objects.create(name=name)


def written() -> set[str]:
    return set(Candidate.objects.values_list("name", flat=True))


class TestFence:
    def test_lets_the_current_terms_writes_through(self) -> None:
        with fenced(fence_of(7)):
            write("seven")

        assert written() == {"seven"}

    @pytest.mark.parametrize("term", [6, 8, 0, -1])
    def test_refuses_every_other_terms(self, term: int) -> None:
        with pytest.raises(TermOutdated), fenced(fence_of(term)):
            write("another")

        assert written() == set()

    def test_no_fence_refuses_nothing(self) -> None:
        with fenced(no_fence):
            write("a person's")

        assert written() == {"a person's"}

    def test_a_connection_that_was_closed_fails_once(self) -> None:
        """It raises an InterfaceError, which is no DatabaseError."""
        connection.ensure_connection()
        connection.connection.close()

        with pytest.raises(InterfaceError), fenced(fence_of(7)):
            write("lost")
        with fenced(fence_of(7)):
            write("after it")

        assert written() == {"after it"}

    def test_is_of_no_use_without_a_transaction(self) -> None:
        with pytest.raises(RuntimeError, match="none is open"):
            fence_of(7)()

    def test_an_emptied_table_means_that_nobody_led_yet(self) -> None:
        LeaderTerm.objects.all().delete()

        assert (fence.current().term, fence.current().leader) == (0, "")
        with fenced(fence_of(0)):
            write("before the first leader")

    def test_its_limits_end_with_its_transaction(self, settings: Settings) -> None:
        before = call("SELECT current_setting('transaction_timeout'), current_setting('lock_timeout')", [])

        with fenced(fence_of(7)):
            inside = call("SELECT current_setting('transaction_timeout'), current_setting('lock_timeout')", [])

        assert inside == [("3s", "1500ms")]
        assert call("SELECT current_setting('transaction_timeout'), current_setting('lock_timeout')", []) == before


class TestNextTerm:
    def test_waits_for_the_writes_under_the_one_before(self) -> None:
        order: list[str] = []

        def take() -> None:
            terms.take_next(fence.current(), "two", "a test")
            order.append("taken")
            connection.close()

        with fenced(fence_of(7)):
            taking = threading.Thread(target=take)
            taking.start()
            waiting_for_the_lock()
            order.append("written")
        taking.join()

        assert order == ["written", "taken"]

    def test_a_holder_that_is_frozen_keeps_it_waiting_no_longer_than_the_limit(self, settings: Settings) -> None:
        settings.FENCE_MS_MAX = 1_000
        taken: list[int | None] = []
        without_own_limits()

        def take() -> None:
            taken.append(terms.take_next(fence.current(), "two", "a test"))
            connection.close()

        def hold_and_freeze() -> None:
            with transaction.atomic():
                fence_of(7)()
                taking = threading.Thread(target=take)
                taking.start()
                taking.join()  # it is frozen until the next one has taken over
                write("too late")

        with pytest.raises(DatabaseError):
            hold_and_freeze()
        connection.close()

        assert taken == [8]
        assert fence.current().term == 8
        assert written() == set()

    def test_a_statement_that_takes_too_long_under_the_fence_is_ended(self, settings: Settings) -> None:
        settings.FENCE_MS_MAX = 300
        without_own_limits()

        with pytest.raises(DatabaseError), fenced(fence_of(7)):
            call("SELECT pg_sleep(20)", [])

    def test_many_short_statements_are_ended_in_time_too(self, settings: Settings) -> None:
        settings.FENCE_MS_MAX = 600
        without_own_limits()

        def busy() -> None:
            with fenced(fence_of(7)):
                for _ in range(200):
                    call("SELECT pg_sleep(0.05)", [])

        with pytest.raises(DatabaseError):
            busy()

    def test_is_given_to_one_of_two_who_saw_the_same(self) -> None:
        seen = fence.current()

        found = [terms.take_next(seen, name, "a test") for name in ("two", "three")]

        assert found == [8, None]
        assert (LeaderTerm.objects.get().leader, LeaderTerm.objects.get().previous) == ("two", "one")

    def test_an_old_terms_write_that_waited_for_it_is_refused(self) -> None:
        refused: list[bool] = []

        def write_late() -> None:
            try:
                with fenced(fence_of(7)):
                    write("late")
            except TermOutdated:
                refused.append(True)
            connection.close()

        with transaction.atomic():
            LeaderTerm.objects.update(term=8)
            late = threading.Thread(target=write_late)
            late.start()
            waiting_for_the_lock()
        late.join()

        assert refused == [True]
        assert written() == set()


def without_own_limits() -> None:
    """Of this session: what ends it is the fence's alone."""
    names = ("idle_in_transaction_session_timeout", "statement_timeout", "transaction_timeout", "lock_timeout")
    call("SELECT " + ", ".join(f"set_config('{name}', '0', false)" for name in names), [])


def waiting_for_the_lock() -> None:
    """Until somebody else waits for a lock of ours."""
    deadline = time.monotonic() + 20
    while not call("SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()", []):
        assert time.monotonic() < deadline
        call("SELECT pg_stat_clear_snapshot()", [])
        time.sleep(0.01)
