"""The clock that a pass signs its requests with."""

import time

import pytest
from django.db import connection

from ops import wiring

pytestmark = pytest.mark.django_db
SUSPENDED_MS = 3_600_000


def test_the_clock_of_a_pass_counts_through_a_suspended_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_BOOTTIME moves on while the machine is suspended, CLOCK_MONOTONIC stands still."""
    suspended_ms = 0

    def clock_gettime_ns(clock: int) -> int:
        return time.clock_gettime_ns(clock) + suspended_ms * 1_000_000 * (clock == time.CLOCK_BOOTTIME)

    monkeypatch.setattr(wiring, "clock_gettime_ns", clock_gettime_ns, raising=False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT (extract(epoch FROM service_now()) * 1000)::bigint")
        (began_ms,) = cursor.fetchone()
    now_ms = wiring._database_clock()
    assert abs(now_ms() - began_ms) < 60_000

    suspended_ms = SUSPENDED_MS

    assert abs(now_ms() - began_ms - SUSPENDED_MS) < 60_000
