"""A place for one process: others wait for its end, and for nothing that PostgreSQL does
meanwhile.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import pytest

from base import slot
from base.db import call
from base.slot import held
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True)
OURS = "FROM pg_stat_activity WHERE application_name LIKE '%% slot' AND datname = current_database()"


class Process:
    """One that wants the place, in a thread."""

    def __init__(self) -> None:
        self.in_place, self.leaves, self.stopping = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with held("slot-1", self.stopping):
            self.in_place.set()
            self.leaves.wait(30)

    def ends(self) -> None:
        self.leaves.set()
        self.stopping.set()
        self._thread.join(10)


@contextmanager
def process() -> Iterator[Process]:
    started = Process()
    try:
        yield started
    finally:
        started.ends()


def holders() -> set[int]:
    """The PostgreSQL processes that hold a slot's lock."""
    locks = "FROM pg_locks WHERE locktype = 'advisory' AND granted"
    return {pid for (pid,) in call(f"SELECT pid {locks} AND pid IN (SELECT pid {OURS})", [])}


def sessions() -> int:
    """Of slots, at PostgreSQL."""
    return int(call(f"SELECT count(*) {OURS}", [])[0][0])


def break_all_sessions() -> None:
    """As a restart of PostgreSQL does."""
    call(f"SELECT pg_terminate_backend(pid) {OURS}", [])


@pytest.fixture
def first() -> Iterator[Process]:
    with process() as started:
        assert started.in_place.wait(10)
        yield started


class TestWaiting:
    def test_ends_with_the_end_of_the_first(self, first: Process) -> None:
        with process() as second:
            assert not second.in_place.wait(0.3)

            first.ends()

            assert second.in_place.wait(10)

    def test_other_slots_are_free_and_no_name_is_none(self) -> None:
        stopping, reached = threading.Event(), threading.Event()

        def hold() -> None:
            with held("slot-1", stopping), held("slot-2", stopping), held("", stopping), held("", stopping):
                assert len(holders()) == 2
                reached.set()

        holding = threading.Thread(target=hold)
        holding.start()
        in_time = reached.wait(20)
        stopping.set()
        holding.join(20)

        assert in_time

    def test_ends_for_one_that_is_told_to_stop(self, first: Process) -> None:
        with process() as second:
            second.stopping.set()

            assert second.in_place.wait(10)


class TestWithoutPostgreSQL:
    @pytest.fixture
    def away(self, monkeypatch: pytest.MonkeyPatch) -> set[str]:
        """For which threads' slots PostgreSQL is away: those that wait, or the one that keeps."""
        connect, away = slot._connect, set[str]()

        def refuse() -> psycopg2.extensions.connection:
            if ("keeps" if threading.current_thread().name == "slot" else "waits") in away:
                raise psycopg2.OperationalError("connection refused")
            return connect()

        monkeypatch.setattr(slot, "_connect", refuse)
        return away

    def test_the_holder_keeps_its_place_from_who_waits(self, first: Process, away: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(slot, "GRACE_SECONDS", 4.0)
        with process() as second:
            wait_until(lambda: sessions() == 2)
            before = holders()

            away.update({"keeps", "waits"})
            break_all_sessions()
            wait_until(lambda: sessions() == 0)
            assert not second.in_place.wait(0.3)
            away.remove("waits")
            wait_until(lambda: sessions() == 1)
            away.remove("keeps")
            wait_until(lambda: holders() - before)

            assert not second.in_place.is_set()
            first.ends()
            assert second.in_place.wait(10)

    def test_the_holder_keeps_its_place_from_who_comes_later(self, first: Process) -> None:
        before = holders()
        break_all_sessions()
        wait_until(lambda: holders() - before)

        with process() as second:
            assert not second.in_place.wait(0.3)

    def test_who_comes_waits_for_it(self, away: set[str]) -> None:
        away.add("waits")
        with process() as only:
            assert not only.in_place.wait(0.3)

            away.clear()

            assert only.in_place.wait(10)
            assert len(holders()) == 1

    def test_who_waits_for_it_may_be_told_to_stop(self, away: set[str]) -> None:
        away.add("waits")
        with process() as only:
            only.stopping.set()

            assert only.in_place.wait(10)
