"""Where the cases of a scenario begin: what its first processes left in the database and in the
broker, kept, and brought back for each case.
"""

import time
from dataclasses import dataclass, field
from typing import Any, Final

import redis
from django.apps import apps
from django.db import connection

from tests.crashpoints.clock import clock
from tests.support.states import any_transition, rewritable

APPS: Final = ("base", "orders", "clearing", "ops", "admin")
SEED, STAGE = "crash_seed", "crash_stage"


@dataclass(slots=True)
class Stage:
    """Both servers at one moment. `empty` is what migrations leave."""

    broker: "redis.Redis"
    _tables: list[str] = field(default_factory=list)
    _messages: dict[bytes, bytes] = field(default_factory=dict)
    _at: float = 0.0

    def __post_init__(self) -> None:
        self._tables = [model._meta.db_table for app in APPS for model in apps.get_app_config(app).get_models()]
        for table in self._tables:
            _sql(f'CREATE TABLE "{SEED}_{table}" AS TABLE "{table}"; CREATE TABLE "{STAGE}_{table}" AS TABLE "{table}" WITH NO DATA')

    def empty(self) -> None:
        """As after the migrations, at the machine's time."""
        clock.ahead_seconds = 0
        self.broker.flushdb()
        self._fill(SEED)

    def keep(self) -> None:
        """Remembers how things are now."""
        self._at = time.time() + clock.ahead_seconds
        keys: Any = self.broker.keys("*")
        self._messages = {key: self.broker.dump(key) for key in keys}  # type: ignore[misc]
        _sql("; ".join(f'DELETE FROM "{STAGE}_{table}"; INSERT INTO "{STAGE}_{table}" SELECT * FROM "{table}"' for table in self._tables))

    def bring_back(self) -> None:
        """As they were then, also in time."""
        clock.ahead_seconds = self._at - time.time()
        self.broker.flushdb()
        for key, value in self._messages.items():
            self.broker.restore(key, 0, value)
        self._fill(STAGE)

    def _fill(self, source: str) -> None:
        """Foreign keys are checked at the end, so that the order of tables doesn't matter. The
        triggers that refuse wrong transitions and changed history are off meanwhile.
        """
        emptied = "; ".join(f'DELETE FROM "{table}"' for table in self._tables)
        filled = "; ".join(f'INSERT INTO "{table}" SELECT * FROM "{source}_{table}"' for table in self._tables)
        with any_transition(), rewritable():  # in transactions of their own: not while foreign keys are unchecked
            _sql(f"{emptied}; {filled}")


def _sql(statements: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statements)
