from collections.abc import Iterator

import pytest

from base.clock import shift_clock
from clearing import broker
from tests.support.orders import World


@pytest.fixture
def world(db: None) -> Iterator[World]:
    """Counterparties in memory and a worker, on a real database and a real, empty broker."""
    broker.client().flushdb()
    yield World()
    shift_clock(0)
