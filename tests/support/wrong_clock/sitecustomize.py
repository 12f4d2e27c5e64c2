"""In a process's PYTHONPATH: its wall clock is `CLOCK_AHEAD_SECONDS` ahead, or behind, for whatever
in it asks Python for the time; other clocks are left alone.
"""

import datetime as dt
import os
import time
from typing import Any

_SECONDS = int(os.environ["CLOCK_AHEAD_SECONDS"])
_time, _time_ns, _true = time.time, time.time_ns, dt.datetime

time.time = lambda: _time() + _SECONDS
time.time_ns = lambda: _time_ns() + _SECONDS * 1_000_000_000


class _Datetimes(type):
    def __instancecheck__(cls, instance: object) -> bool:
        """What C code makes, as psycopg2, is of the true class."""
        return isinstance(instance, _true)


class _Datetime(dt.datetime, metaclass=_Datetimes):
    """datetime.now reads the system's clock past `time.time`."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        return _true.now(tz) + dt.timedelta(seconds=_SECONDS)

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(dt.UTC).replace(tzinfo=None)


vars(dt)["datetime"] = _Datetime
