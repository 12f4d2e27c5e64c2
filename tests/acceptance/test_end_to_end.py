"""Real processes, real servers: every order clears, whatever is killed on the way, and the audit
finds nothing.
"""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.support.service import LiveService
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes
SLOW_MS = 100  # of each call, so that whatever is killed has orders in flight
CLAIMED = "SELECT count(*) FROM clearing_clearing WHERE state = 'running'"
RECOVERED = "SELECT count(*) FROM clearing_statuschange WHERE from_state = 'running' AND reason IN ('worker died', 'claim lost')"
QUEUED_AGAIN = "SELECT count(*) FROM clearing_statuschange WHERE from_state = 'running' AND to_state = 'queued'"
TERM = "SELECT term FROM base_leaderterm"


@dataclass(frozen=True)
class Flow:
    """Orders that are placed and cleared while a test does something to the service."""

    service: LiveService
    before: int  # cleared by earlier tests
    total: int

    def cleared(self) -> int:
        """How many of these orders are cleared by now."""
        return self.service.cleared() - self.before

    def wait_for_middle(self, share: float = 0.2) -> None:
        """Waits until so many are cleared; fails when none is left to meet the fault."""
        wait_until(lambda: self.cleared() >= self.total * share, seconds=60)
        cleared = self.cleared()
        assert cleared < self.total, f"all {self.total} orders had cleared before the fault"


@contextmanager
def flow(service: LiveService, total: int, seed: int, *, users: int = 20, rate: int = 50) -> Iterator[Flow]:
    """Places orders with slow calls; when the block and the placing are over, all must clear."""
    before = service.cleared()
    service.set_fault(counterparty="*", operation="*", kind="latency", latency_ms=SLOW_MS)
    try:
        with service.placing(total, users=users, rate=rate, seed=seed):
            yield Flow(service, before, total)
    finally:
        service.clear_faults()
    report = service.audit()
    assert report["cleared"] == before + total


def count(service: LiveService, sql: str) -> int:
    """The number that a query returns."""
    return int(service.query(sql)[0][0])


def messages(service: LiveService) -> int:
    """Messages that wait in the broker's lists for a worker."""
    broker = service.broker()
    return sum(int(broker.llen(key)) for key in broker.scan_iter(_type="list"))


def sent_again(service: LiveService) -> int:
    """Messages that the sweep has sent again because they were gone, by its log."""
    log = (service.folder / "logs" / "worker-ops.log").read_text()
    return sum(int(number) for number in re.findall(r'"sent_again": (\d+)', log))


class TestGoodDay:
    def test_mixed_orders_of_many_users_clear(self, service: LiveService) -> None:
        service.place(120, users=20)

        report = service.audit()

        assert (report["placed"], report["cleared"], report["missing"]["count"], report["doubled"]["count"]) == (120, 120, 0, 0)

    def test_the_topic_read_again_from_its_beginning_changes_nothing(self, service: LiveService) -> None:
        before = service.audit()

        service.manage("consume_binlog", "--group=look-again", "--until-idle=2", KAFKA_INSTANCE_ID="")

        after = service.audit()
        assert (after["accepted"], after["cleared"], after["doubled"]["count"]) == (before["accepted"], before["cleared"], 0)


class TestKilled:
    def test_a_worker_killed_in_the_middle(self, service: LiveService) -> None:
        recovered = count(service, RECOVERED)

        with flow(service, 120, seed=2) as orders:
            orders.wait_for_middle()
            wait_until(lambda: count(service, CLAIMED) > 0)
            service.kill("worker")

        assert count(service, RECOVERED) > recovered  # it held orders, which others took over

    def test_a_worker_told_to_stop_in_the_middle(self, service: LiveService) -> None:
        handed_back = count(service, QUEUED_AGAIN)

        with flow(service, 120, seed=3) as orders:
            orders.wait_for_middle()
            wait_until(lambda: count(service, CLAIMED) > 0)
            service.kill("worker", signal.SIGTERM)

        assert count(service, QUEUED_AGAIN) > handed_back

    def test_beat_and_the_ops_worker_killed(self, service: LiveService) -> None:
        term = count(service, TERM)

        with flow(service, 100, seed=5, rate=25) as orders:
            orders.wait_for_middle()
            service.kill("beat")
            service.kill("worker-ops")

        wait_until(lambda: count(service, TERM) > term)  # the successor leads

    def test_a_broker_that_was_wiped_five_times(self, service: LiveService) -> None:
        before = sent_again(service)

        with flow(service, 200, seed=6, users=80, rate=100) as orders:  # more users than the worker takes messages at once
            for number in range(1, 6):
                orders.wait_for_middle(number / 10)
                wait_until(lambda: messages(service) > 0)
                service.broker().flushall()

        assert sent_again(service) > before  # messages were gone, and the sweep sent them again


class TestFaults:
    def test_answers_lost_after_the_effect(self, service: LiveService) -> None:
        unknown = "SELECT count(*) FROM clearing_attempt WHERE outcome = 'unknown' AND NOT asked"
        before = count(service, unknown)
        service.set_fault(counterparty="*", operation="*", kind="apply_then_reset", count=6)
        service.set_fault(counterparty="*", operation="*", kind="apply_then_5xx", status=502, count=10)
        service.set_fault(counterparty="*", operation="*", kind="garbage", count=10)

        service.place(60, users=10, seed=7)

        service.audit()
        assert count(service, unknown) > before

    def test_partial_executions(self, service: LiveService) -> None:
        parts = "SELECT count(*) FROM clearing_operation WHERE step = 3 AND part > 1 AND state = 'done'"
        before = count(service, parts)
        service.set_fault(counterparty="trading", operation="exchange", kind="partial", fraction="0.6", count=2)

        service.place(20, users=20, seed=8)

        service.audit()
        assert count(service, parts) >= before + 2


class TestPlainChain:
    """The last of the module: it leaves the supervised worker down."""

    def test_the_comparison_setting_clears_as_well(self, service: LiveService) -> None:
        cleared, queued = service.cleared(), count(service, QUEUED_AGAIN)
        service.manage("stack", "services", "down", "worker")

        with service.workers(threads=16, CLEARING_RUN_STEPS_INLINE="false"):
            service.place(50, users=10, seed=9)
            assert service.audit()["cleared"] == cleared + 50

        assert count(service, QUEUED_AGAIN) - queued >= 3 * 50  # each step but the first had a message of its own
