"""The stop rule: so many bad messages mean that the pipeline, or our parsing, is broken (design,
rule 3). Pure.
"""

from collections import deque
from typing import Final

WINDOW_MESSAGES: Final = 1_000
BAD_OF_WINDOW_MAX: Final = 10
BAD_IN_A_ROW_MAX: Final = 100


class StopRule:
    """Counts good and bad messages. Messages that were quarantined before aren't counted, so that a
    stopped consumer can be started again.
    """

    def __init__(self) -> None:
        self._window: deque[bool] = deque(maxlen=WINDOW_MESSAGES)
        self._bad_of_window = 0
        self._in_a_row = 0
        self.broken = ""  # why the consumer must stop; once set, it stays

    def count(self, *, bad: bool) -> None:
        """Counts one more message."""
        if len(self._window) == WINDOW_MESSAGES:
            self._bad_of_window -= self._window[0]
        self._window.append(bad)
        self._bad_of_window += bad
        self._in_a_row = self._in_a_row + 1 if bad else 0
        self.broken = self.broken or self._judge()

    def _judge(self) -> str:
        if self._in_a_row >= BAD_IN_A_ROW_MAX:
            return f"{self._in_a_row} bad messages in a row"
        if len(self._window) == WINDOW_MESSAGES and self._bad_of_window > BAD_OF_WINDOW_MAX:
            return f"{self._bad_of_window} of the last {WINDOW_MESSAGES} messages are bad"
        return ""
