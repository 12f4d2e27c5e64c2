"""The one clock: `service_now()` in the database (design, rule 9), and its Django expression for
defaults and queries.
"""

from django.db import connection
from django.db.models import DateTimeField, Func


class ServiceNow(Func):
    """`service_now()`: the database's clock."""

    function = "service_now"
    output_field = DateTimeField()
    allowed_default = True


def shift_clock(seconds: float) -> None:
    """Shifts `service_now()` for this session of the database alone, by so many seconds; 0 takes it
    back. Only in a database that tests have made shiftable (tests/support/clock.py).
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('service.clock_shift', %s, false)", [f"{seconds} seconds"])
