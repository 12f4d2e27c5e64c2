"""Time for the explorer: `service_now()`, the counterparties' clock and every `monotonic` of the
service are ahead of the machine's by as much as is wanted, so that nothing waits for real.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.signals import connection_created

APPS = ("base", "orders", "clearing", "ops", "acceptance_site")


class VirtualClock:
    """One for a process and all it forks; a child tells its parent when it moves on."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0
        self._stopped_at: float | None = None

    def monotonic(self) -> float:
        """In the place of `time.monotonic`."""
        return (time.monotonic() if self._stopped_at is None else self._stopped_at) + self.ahead_seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """In the block the machine's own time counts for nothing, however slow it is: `monotonic`
        moves by what is advanced alone.
        """
        self._stopped_at = time.monotonic()
        try:
            yield
        finally:
            self._stopped_at = None

    def now_ms(self) -> int:
        """The counterparties' clock."""
        return int((time.time() + self.ahead_seconds) * 1000)

    def install(self) -> None:
        """Puts this clock where the service has taken `monotonic` or `sleep` by name, and into
        every session of the database.
        """
        stand_ins = {time.monotonic: self.monotonic, time.sleep: self.sleep}
        for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in APPS]:
            for name, value in list(vars(module).items()):
                if any(value is real for real in stand_ins):
                    setattr(module, name, stand_ins[value])
        connection_created.connect(self._on_connection, weak=False)

    def sleep(self, seconds: float) -> None:
        """In the place of `time.sleep`: a process that waits for something real still waits a
        little.
        """
        self.ahead_seconds += seconds
        time.sleep(0.001)

    def _on_connection(self, connection: Any, **_: object) -> None:
        self.shift(connection)

    def shift(self, connection: Any) -> None:
        """Shifts `service_now()` of a session, past every door."""
        with connection.connection.cursor() as cursor:
            cursor.execute("SELECT set_config('service.clock_shift', %s, false)", [f"{self.ahead_seconds} seconds"])


clock = VirtualClock()
