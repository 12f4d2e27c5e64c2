"""Processes that are told to stop: quickly, whatever their calls take, and with nothing left behind
for a timeout to find.
"""

import itertools
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import psutil
import pytest

from stack.rundir import CHECKOUT
from tests.support.service import ALL, LiveService, live_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes
DRAIN_SECONDS_MAX = 30.0  # one slow call ends in 5; a worker that went on would take four for each order it holds
SLOW_MS = 4_500  # nearly a call's deadline
PAUSE_SECONDS = 0.3  # between two orders


@pytest.fixture(scope="module")
def service() -> Iterator[LiveService]:
    with live_service(CHECKOUT / ".run" / "drain") as running:
        yield running


@contextmanager
def slow_calls(service: LiveService) -> Iterator[None]:
    """Every call takes nearly as long as it may."""
    service.set_fault(counterparty="*", operation="*", kind="latency", latency_ms=SLOW_MS)
    try:
        yield
    finally:
        service.clear_faults()


def lives_of(service: LiveService, name: str) -> list[str]:
    """The incarnations of a service's process that haven't ended."""
    return [row[0] for row in service.query("SELECT name FROM base_incarnation WHERE ended_at IS NULL AND pid = %s", service.pid(name))]


def stop(service: LiveService, name: str) -> None:
    """SIGTERM; the test fails unless it has ended in time."""
    process = psutil.Process(service.pid(name))
    os.kill(process.pid, signal.SIGTERM)
    process.wait(DRAIN_SECONDS_MAX)


class TestWorker:
    def test_it_ends_in_time_in_the_middle_of_slow_calls_and_holds_no_claim(self, service: LiveService) -> None:
        """The steps in flight are finished and the rest handed back, which the history says: how
        long it took would tell only by luck.
        """
        with slow_calls(service):
            service.place(40, users=40, rate=100)
            [life] = lives_of(service, "worker")
            wait_until(lambda: service.query("SELECT count(*) FROM clearing_clearing WHERE claimed_by = %s", life)[0][0] >= 10)

            stop(service, "worker")

            assert service.query("SELECT count(*) FROM clearing_clearing WHERE claimed_by = %s", life) == [(0,)]
            assert service.query('SELECT "end" FROM base_incarnation WHERE name = %s', life) == [("stopped",)]
            handed_back = service.query("SELECT count(*) FROM clearing_statuschange WHERE reason = 'handed back' AND actor = %s", life)
            assert handed_back[0][0] > 0
        assert service.audit()["cleared"] == 40
        assert service.query("SELECT count(*) FROM clearing_statuschange WHERE reason = 'claim lost'") == [(0,)]


class TestOthers:
    @pytest.mark.parametrize("name", ["consumer", "worker-ops", "beat", "web"])
    def test_each_ends_in_time_and_says_so(self, service: LiveService, name: str) -> None:
        wait_until(lambda: service.pid_or_none(name) is not None and (name == "web" or lives_of(service, name)))
        pid = service.pid(name)
        children = [child.pid for child in psutil.Process(pid).children()] or [pid]

        stop(service, name)

        ends = service.query('SELECT DISTINCT "end" FROM base_incarnation WHERE pid = ANY (%s)', children)
        assert ends == [("stopped",)]

    def test_every_role_is_registered(self, service: LiveService) -> None:
        def roles() -> set[str]:
            return {row[0] for row in service.query("SELECT role FROM base_incarnation WHERE ended_at IS NULL")}

        wait_until(lambda: roles() == {"web", "consumer", "worker", "worker-ops", "worker-suspects", "beat"})


class TestReplace:
    def test_orders_flow_while_every_process_is_replaced(self, service: LiveService) -> None:
        before = {name: service.pid(name) for name in ALL if name != "sandbox"}
        placed = service.audit()["placed"]

        with ThreadPoolExecutor(1) as beside:
            replaced = beside.submit(service.manage, "stack", "services", "replace")
            for number in itertools.count():
                order = {"direction": "OPEN", "asset": "BTC", "quantity": "0.01"}
                service.control("/counter/v1/orders/batch", user_id=str(750_000 + number % 40), orders=[order])
                placed += 1
                if wait([replaced], PAUSE_SECONDS).done:
                    break
            replaced.result()

        assert service.audit()["cleared"] == placed
        assert not {service.pid(name) for name in before} & set(before.values())
