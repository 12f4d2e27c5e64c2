"""The service's clock can't be moved by a session: claims, expiries and the guard that waits until
no request is on its way any more all read it.
"""

import pytest
from django.core.management import call_command
from django.db import connection

from base.clock import shift_clock

pytestmark = pytest.mark.django_db


def seconds_ahead() -> float:
    with connection.cursor() as cursor:
        cursor.execute("SELECT extract(epoch FROM service_now() - clock_timestamp())")
        return float(cursor.fetchone()[0])


@pytest.fixture
def migrated() -> None:
    """The functions that a release brings, in the place of the tests' own, until the test's end."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE FUNCTION base_functions_version() RETURNS text LANGUAGE sql AS $$ SELECT 'older' $$")
    call_command("migrate", verbosity=0)


@pytest.mark.usefixtures("migrated")
@pytest.mark.parametrize("seconds", [3_600, -3_600])
def test_a_shift_has_no_effect_where_a_release_was_migrated(seconds: float) -> None:
    shift_clock(seconds)

    assert abs(seconds_ahead()) < 1


def test_the_tests_own_database_has_a_clock_that_moves() -> None:
    shift_clock(3_600)

    assert 3_599 < seconds_ahead() < 3_601
    shift_clock(0)
