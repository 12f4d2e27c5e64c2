"""In a process's PYTHONPATH: its wall clock is an hour ahead, whoever in it asks for the time; other clocks are left alone."""

import time

_SECONDS = 3_600
_time, _time_ns = time.time, time.time_ns

time.time = lambda: _time() + _SECONDS
time.time_ns = lambda: _time_ns() + _SECONDS * 1_000_000_000
