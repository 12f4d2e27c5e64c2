"""How often somebody is asked who doesn't answer."""

import time
from collections.abc import Callable
from typing import Final

from django.conf import settings


class Patience:
    """A counter that doesn't answer is asked less and less often: after 3, 6, 12, … seconds, at
    most every 30; as soon as it answers, always.
    """

    PAUSE_SECONDS_MAX: Final = 30.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._next_at = 0.0

    def may_ask(self) -> bool:
        """Whether its pause is over."""
        return not self._failures or self._clock() >= self._next_at

    def heard(self, *, answered: bool) -> None:
        """What became of asking."""
        self._failures = 0 if answered else self._failures + 1
        pause = settings.GAP_PASS_SECONDS * 2 ** min(self._failures - 1, 10) if self._failures else 0.0
        self._next_at = self._clock() + min(pause, self.PAUSE_SECONDS_MAX)
