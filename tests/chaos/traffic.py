"""Users' orders all the while: at an even rate, until so many were taken, however often the counter
is away.
"""

import threading

from ops.demo.placing import Placing, Tally, UnreachableError, Users

AWAY_SECONDS = 0.3


class Traffic:
    """Places orders in the background."""

    def __init__(self, counter_url: str, *, orders: int, users: int, rate: float, seed: int) -> None:
        self._url = counter_url
        self._orders = orders
        self._rate = rate
        self._users = Users(users, direction="mixed", asset="mixed", seed=seed)
        self._before = 0
        self._tally = Tally()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._place, name="traffic", daemon=True)

    @property
    def placed(self) -> int:
        """Orders that the counter has taken, and said so."""
        return self._before + self._tally.placed

    @property
    def done(self) -> bool:
        """Whether all are placed."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """No further orders."""
        self._stopped.set()

    def _place(self) -> None:
        while self.placed < self._orders and not self._stopped.is_set():
            placing = Placing(self._url, self._users, count=self._orders - self.placed, rate=self._rate)
            self._before, self._tally = self.placed, placing.tally
            try:
                placing.run()
            except UnreachableError:
                self._stopped.wait(AWAY_SECONDS)
