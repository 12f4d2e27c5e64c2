from collections.abc import Iterator

import pytest

from base.clock import shift_clock
from clearing.dispatch import broker
from tests.support.desk import ann_and_ben
from tests.support.orders import World


@pytest.fixture
def world(db: None) -> Iterator[World]:
    """Counterparties in memory and a worker, on a real database and a real, empty broker."""
    broker.client().flushdb()
    broker.read_generation()  # inside the test's transaction nobody asks for it
    ann_and_ben()
    yield World()
    shift_clock(0)


@pytest.fixture
def busy_world(transactional_db: None) -> Iterator[World]:
    """The same where several act at once, each on a connection of its own."""
    broker.client().flushdb()
    broker.read_generation()
    ann_and_ben()
    yield World()
    shift_clock(0)
