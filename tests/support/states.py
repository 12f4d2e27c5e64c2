"""Orders in states that the service never brings them to, for tests of what it does then."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def any_transition() -> Iterator[None]:
    """In the block the database accepts every change of a clearing's state, as it did before it
    knew `status.TRANSITIONS`.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE clearing_clearing DISABLE TRIGGER USER; SET CONSTRAINTS ALL DEFERRED")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE clearing_clearing ENABLE TRIGGER USER; SET CONSTRAINTS ALL DEFERRED")
