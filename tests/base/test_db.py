"""What counts as PostgreSQL being away, and which connections are kept."""

from collections.abc import Iterator

import pytest
from django.db import InternalError, OperationalError, connection

from base.db import call, drop_broken_connection

_WRITE = "UPDATE base_leaderterm SET term = term RETURNING term"


@pytest.fixture
def demoted(transactional_db: None) -> Iterator[None]:
    """The connection leads to a server that only reads by now: a primary that was demoted answers
    all the same.
    """
    call("SELECT set_config('default_transaction_read_only', 'on', false)", [])
    yield
    connection.close()


def raised(state: str) -> None:
    call(f"DO $$ BEGIN RAISE EXCEPTION 'so this test wants it' USING ERRCODE = '{state}'; END $$", [])


class TestServerThatOnlyReads:
    def test_is_away_and_the_next_call_connects_anew(self, demoted: None) -> None:
        with pytest.raises(OperationalError, match="read-only transaction"):
            call(_WRITE, [])

        assert call("SHOW transaction_read_only", []) == [("off",)]

    def test_is_left_by_whoever_begins_something(self, demoted: None) -> None:
        drop_broken_connection()

        assert connection.connection is None


@pytest.mark.django_db(transaction=True)
class TestInternalErrors:
    @pytest.mark.parametrize("state", ["25P03", "25P04"])
    def test_a_time_limit_of_the_session_is_none(self, state: str) -> None:
        with pytest.raises(OperationalError):
            raised(state)

    @pytest.mark.parametrize("state", ["P0002", "25P01", "XX000"])
    def test_what_is_one_stays_one(self, state: str) -> None:
        with pytest.raises(InternalError):
            raised(state)

    def test_a_connection_that_serves_is_kept(self) -> None:
        call("SELECT 1", [])
        kept = connection.connection

        drop_broken_connection()

        assert connection.connection is kept
