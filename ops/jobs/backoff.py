"""Exponential backoff for polling an unresponsive counter: 3, 6, 12, … up to 30 s; reset by the
first answer.
"""

import time
from collections.abc import Callable
from typing import Final

from django.conf import settings


class Backoff:
    """When the counter may be asked again. The pause doubles with each failure, from
    GAP_PASS_SECONDS up to PAUSE_SECONDS_MAX.
    """

    PAUSE_SECONDS_MAX: Final = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._next_at = 0.0

    def may_ask(self) -> bool:
        """Whether the pause is over."""
        return not self._failures or self._clock() >= self._next_at

    def record(self, *, success: bool) -> None:
        """Records whether the counter answered."""
        self._failures = 0 if success else self._failures + 1
        pause = settings.GAP_PASS_SECONDS * 2 ** min(self._failures - 1, 10) if self._failures else 0.0
        self._next_at = self._clock() + min(pause, self.PAUSE_SECONDS_MAX)
