"""PostgreSQL dies in the middle of a sweep: really, between two statements of one of its
transactions.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from stack.launcher import Stack
from stack.rundir import CHECKOUT
from tests.support.service import LiveService, live_service

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]
ORDERS = 60  # tests/ops/sweeper.py's
STATES = "SELECT state, epoch, count(*)::int FROM clearing_clearing GROUP BY 1, 2 ORDER BY 2"
TAKEN_BACK = """
    SELECT (SELECT count(*) FROM clearing_statuschange h WHERE h.clearing_id = c.id AND h.reason = 'claim lost'),
           (SELECT count(*) FROM clearing_attempt a JOIN clearing_operation o ON o.id = a.operation_id WHERE o.clearing_id = c.id), count(*)::int
    FROM clearing_clearing c GROUP BY 1, 2
"""


@pytest.fixture
def servers() -> Iterator[LiveService]:
    with live_service(CHECKOUT / ".run" / "sweep-outage", services=()) as running:
        yield running


def kill_postgresql(servers: LiveService) -> None:
    """As `pg_ctl stop -m immediate` does; returns when it is gone."""
    pids = {line.name: line.pid for line in Stack(servers.folder, servers.environment).status()}
    postmaster = psutil.Process(pids["postgres"])
    postmaster.send_signal(signal.SIGQUIT)
    postmaster.wait(60)


class Sweeper:
    """The process of tests/ops/sweeper.py."""

    def __init__(self, servers: LiveService) -> None:
        command = [sys.executable, "-m", "tests.ops.sweeper"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=CHECKOUT, env=dict(servers.environment), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        assert self.hears() == "ready"

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def hears(self) -> str:
        assert self.process.stdout is not None
        return next(line.strip() for line in self.process.stdout if not line.startswith("{"))  # that would be its log

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def sweeper(servers: LiveService) -> Iterator[Sweeper]:
    started = Sweeper(servers)
    yield started
    started.end()


def test_what_was_committed_stays_and_the_same_process_takes_the_rest_back_once_each(servers: LiveService, sweeper: Sweeper) -> None:
    sweeper.tell()
    assert sweeper.hears() == "between"
    kill_postgresql(servers)
    sweeper.tell()
    assert sweeper.hears() == "failed"

    servers.manage("stack", "up")
    halfway = servers.query(STATES)
    sweeper.tell()
    assert sweeper.hears() == "swept"

    assert halfway == [("running", 1, ORDERS - 25), ("queued", 2, 25)]
    assert servers.query(STATES) == [("queued", 2, ORDERS)]
    assert servers.query(TAKEN_BACK) == [(1, 1, ORDERS)]
