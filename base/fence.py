"""The fence: a write under a term holds that term's row to the end of its transaction, and is
refused when the term is no longer the current one.

So two terms never both write, whatever an old leader believes: the next leader's UPDATE of the row
waits for who holds it, and whoever comes later finds another term there. Whoever writes is handed a
`Fence` and knows nothing else of leadership; locks come in one order: the term's row, lane locks,
clearing rows (design, rules 6 and 10).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, transaction

from base.db import call, drop_broken_connection

Fence = Callable[[], None]  # called at the start of each transaction that writes
_CURRENT = "SELECT term, leader, since FROM base_leaderterm"
_FIRST = "INSERT INTO base_leaderterm (term) VALUES (0) ON CONFLICT DO NOTHING RETURNING term"


class TermOutdated(Exception):  # noqa: N818 - named by what it tells
    """Another term is the current one: what was to be written isn't. Stop, and let the current
    leader's job do it.
    """


@dataclass(frozen=True, slots=True)
class Current:
    """The current term. `leader` is empty as long as nobody has led."""

    term: int
    leader: str
    since: datetime


def current() -> Current:
    """The term as the database has it now. Raises OperationalError while PostgreSQL is away."""
    rows = call(_CURRENT, [])
    if not rows:  # new, or emptied
        call(_FIRST, [])
        rows = call(_CURRENT, [])
    return Current(*rows[0])


def fence_of(term: int) -> Fence:
    """A fence that lets the term's writes through, and no other's."""
    return partial(_hold, term)


def no_fence() -> None:
    """The fence of what isn't a leader's: intake, and what a person asks for by a command. It holds
    nothing.
    """


@contextmanager
def fenced(fence: Fence) -> Iterator[None]:
    """A transaction of its own under the fence. Raises TermOutdated before anything is written."""
    try:
        with transaction.atomic(durable=True):
            fence()
            yield
    except DatabaseError:
        drop_broken_connection()  # the limits of a fenced transaction end its session
        raise


def _hold(term: int) -> None:
    if not connection.in_atomic_block:
        raise RuntimeError("a fence holds to the end of a transaction, and none is open")
    with connection.cursor() as cursor:
        cursor.execute("SELECT base_fence(%s, %s)", [term, settings.FENCE_MS_MAX])
        if cursor.fetchone() != (True,):
            raise TermOutdated(f"term {term} is over")
