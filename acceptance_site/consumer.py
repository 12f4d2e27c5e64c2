"""Celery's consumer of messages, back within a second when the broker is."""

from functools import partial
from typing import Any, Final

from celery.worker import consumer
from kombu import Connection

RETRY_SECONDS_MAX: Final = 1.0


class Consumer(consumer.Consumer):
    """Asks again for a broker that is away every 0.2 to 1 s, and never gives up.

    Celery has no setting for it: kombu's own pauses begin at 2 s and grow by 2 s up to 30, and as
    long do orders stand still in a broker that has long been back.
    """

    def ensure_connected(self, conn: Connection) -> Any:
        """The connection, once it is made."""
        pauses: dict[str, Any] = {"interval_start": 0.2, "interval_step": 0.2, "interval_max": RETRY_SECONDS_MAX}
        conn.ensure_connection = partial(conn.ensure_connection, **pauses)  # type: ignore[method-assign]
        return super().ensure_connected(conn)
