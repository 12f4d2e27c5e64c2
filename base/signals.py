"""Graceful shutdown on SIGTERM/SIGINT."""

import signal
import threading


def set_on_signal(event: threading.Event, *numbers: signal.Signals) -> None:
    """Sets the event at each of these signals.

    By a thread: Python runs a handler inside whatever the main thread does, also inside the event's
    own `wait`, which holds the lock that `set` takes; a handler that waited for it would hang for
    ever.
    """
    for number in numbers:
        signal.signal(number, lambda *_: threading.Thread(target=event.set, name="stop", daemon=True).start())
