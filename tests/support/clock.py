"""A database whose clock tests may shift."""

from django.db import connection

SHIFTABLE = """
    CREATE OR REPLACE FUNCTION service_now() RETURNS timestamptz LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
        SELECT clock_timestamp() + coalesce(nullif(current_setting('service.clock_shift', true), '')::interval, interval '0')
    $$
"""


def make_clock_shiftable() -> None:
    """Puts the text with the shift into this database: `service.clock_shift` has an effect from
    here on, as nowhere else.
    """
    with connection.cursor() as cursor:
        cursor.execute(SHIFTABLE)
