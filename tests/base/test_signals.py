"""A signal that comes in the middle of the wait that it shall end."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from base.signals import set_on_signal


@pytest.fixture(autouse=True)
def old_handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_the_event_is_set() -> None:
    stopping = threading.Event()
    set_on_signal(stopping, signal.SIGUSR1)

    os.kill(os.getpid(), signal.SIGUSR1)

    assert stopping.wait(10)


@pytest.mark.timeout(20)
def test_a_signal_while_the_waiting_thread_holds_the_events_lock_does_not_hang_it() -> None:
    stopping = threading.Event()
    set_on_signal(stopping, signal.SIGUSR1)

    with stopping._cond:  # type: ignore[attr-defined] # as `wait` does
        os.kill(os.getpid(), signal.SIGUSR1)

    assert stopping.wait(10)
