"""Real workers beside what is slow, what is many, and with a clock that is wrong: whoever isn't
concerned goes on as if nothing were.

Each test starts workers of its own; nothing is timed: what happened before what, and how often,
says it all.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from clearing.store.lanes import lane_of
from stack.procfile import read_procfile
from stack.rundir import CHECKOUT
from tests.support.service import LiveService, live_service
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]
SLOW_MS = 6_000
WAITS_MS = 4_000
DEADLINE_MS = 20_000  # so that a slow call is answered
WITHOUT_WORKER = [name for name in read_procfile(CHECKOUT / "Procfile") if name not in {"worker", "web"}]
CLEARED = "SELECT count(*) FROM clearing_clearing WHERE state = 'cleared' AND user_id = ANY (%s)"
DONE = """
    SELECT count(*) FROM clearing_operation o JOIN clearing_clearing c ON c.id = o.clearing_id
    WHERE o.step = %s AND o.state = 'done' AND user_id = ANY (%s)
"""
APART = """
    SELECT extract(epoch FROM max(greatest(a.sent_at - h.at, h.at - a.sent_at)))
    FROM clearing_clearing c JOIN clearing_operation o ON o.clearing_id = c.id JOIN clearing_attempt a ON a.operation_id = o.id
    JOIN clearing_statuschange h ON h.clearing_id = c.id WHERE user_id = ANY (%s)
"""  # the times of attempts and of changes of state, seconds


@pytest.fixture(scope="module")
def service() -> Iterator[LiveService]:
    """Everything but the workers."""
    folder, window = CHECKOUT / ".run" / "neighbours", str(DEADLINE_MS // 1000)
    with live_service(folder, services=WITHOUT_WORKER, GATEWAY_DEADLINE_MS=str(DEADLINE_MS), BREAKER_WINDOW_SECONDS=window) as running:
        yield running


def place(service: LiveService, user_id: str, count: int) -> None:
    """So many orders of one user, in batches."""
    for _ in range(0, count, 250):
        orders = [{"direction": "OPEN", "asset": "BTC", "quantity": "0.01"}] * min(count, 250)
        service.control("/counter/v1/orders/batch", user_id=user_id, orders=orders)


def count(service: LiveService, sql: str, *values: object) -> int:
    return int(service.query(sql, *values)[0][0])


def hours_ahead(log: bytes) -> set[int]:
    """By how many hours the clocks of those who wrote these lines are ahead, a moment after."""
    lines = [json.loads(line) for line in log.splitlines() if line.startswith(b"{")]
    return {round((datetime.fromisoformat(line["at"]) - datetime.now(UTC)).total_seconds() / 3_600) for line in lines}


class TestASlowCounterparty:
    def test_keeps_no_step_of_the_others_waiting(self, service: LiveService) -> None:
        users = [str(710_000 + number) for number in range(24)]
        slots = 2 * 2
        service.set_fault(counterparty="trading", operation="exchange", kind="latency", latency_ms=SLOW_MS)

        with service.workers(2, threads=4, GATEWAY_CALLS_MAX="2"):
            for user in users:
                place(service, user, 1)
            wait_until(lambda: count(service, DONE, 2, users) == len(users), seconds=120)
            exchanged = count(service, DONE, 3, users)
            service.clear_faults()
            wait_until(lambda: count(service, CLEARED, users) == len(users), seconds=120)

        # a round of slow calls takes six seconds; with all threads in them, two rounds of eight
        # would have been made by the time that each had its turn
        assert exchanged <= 2 * slots


class TestMessagesThatWaitBehindSlowCalls:
    def test_are_neither_sent_again_and_again_nor_made_stale(self, service: LiveService) -> None:
        """Two threads, and calls of four seconds: the rest waits in the worker's memory, where no
        queue shows it.
        """
        users = [str(720_000 + number) for number in range(8)]
        service.set_fault(counterparty="counter", operation="adjust", kind="latency", latency_ms=WAITS_MS)
        sent_again: list[int] = [0]

        def all_cleared() -> bool:
            sent_again.append(count(service, "SELECT coalesce(max(sends), 0) FROM clearing_clearing WHERE user_id = ANY (%s)", users))
            return count(service, CLEARED, users) == len(users)

        with service.workers(threads=2):
            for user in users:
                place(service, user, 1)
            wait_until(all_cleared, seconds=240, pause_seconds=0.2)
        service.clear_faults()

        claims = service.query(
            "SELECT h.epoch, count(*) FROM clearing_statuschange h JOIN clearing_clearing c ON c.id = h.clearing_id"
            " WHERE h.to_state = 'running' AND h.from_state = 'queued' AND user_id = ANY (%s) GROUP BY h.epoch",
            users,
        )
        assert claims == [(1, len(users))]  # each once, and by the first epoch
        assert 1 <= max(sent_again) <= 7  # 2, 4, 8 … seconds apart: seven take more than four minutes, and one a second fewer than these rounds


class TestAWorkerWhoseClockIsWrong:
    @pytest.mark.parametrize(("hours", "first_user"), [(1, 730_000), (-1, 731_000)], ids=["ahead", "behind"])
    def test_clears_like_any_other(self, service: LiveService, hours: int, first_user: int) -> None:
        users = [str(first_user + number) for number in range(5)]
        clock = str(CHECKOUT / "tests" / "support" / "wrong_clock")
        log = service.folder / "logs" / "worker.log"
        logged_before = log.stat().st_size if log.exists() else 0

        with service.workers(threads=4, PYTHONPATH=clock, CLOCK_AHEAD_SECONDS=str(hours * 3_600)):
            for user in users:
                place(service, user, 2)
            wait_until(lambda: count(service, CLEARED, users) == 2 * len(users), seconds=60)

        assert hours_ahead(log.read_bytes()[logged_before:]) == {hours}  # it really was wrong
        refused = service.query("SELECT DISTINCT code FROM clearing_attempt WHERE outcome <> 'done'")
        assert "signature_stale" not in {code for (code,) in refused}
        assert count(service, APART, users) < 1_800
        service.audit()  # of the tests before as well


class TestAUserWithThousandsOfOrders:
    """The last of the module: it leaves most of them behind."""

    ORDERS = 3_000
    HOT = "740000"
    IN_PLACE = 20  # CLEARING_NEXT_IN_PLACE_MAX

    def test_delays_nobody_and_keeps_its_own_order(self, service: LiveService) -> None:
        others = [str(740_001 + number) for number in range(1_000)]
        beside = [user for user in others if lane_of(user) == lane_of(self.HOT)][:5]
        elsewhere = [user for user in others if lane_of(user) != lane_of(self.HOT)][:5]
        quiet = [*beside, *elsewhere]
        place(service, self.HOT, self.ORDERS)
        wait_until(lambda: count(service, "SELECT count(*) FROM clearing_clearing WHERE user_id = %s", self.HOT) == self.ORDERS, seconds=240)

        with service.workers(threads=1):
            wait_until(lambda: count(service, CLEARED, [self.HOT]) > 0, seconds=60)
            for user in quiet:
                place(service, user, 1)
            wait_until(lambda: count(service, CLEARED, quiet) == len(quiet), seconds=120)

        let_by = service.query(
            "SELECT (SELECT count(*) FROM clearing_clearing h WHERE h.user_id = %s AND h.cleared_at BETWEEN q.accepted_at AND q.started_at)"
            " FROM clearing_clearing q WHERE q.user_id = ANY (%s)",
            self.HOT,
            quiet,
        )
        assert max(let_by)[0] <= 5 * self.IN_PLACE  # the turn that the one thread is in, and the next one's, which it may hold already; not all
        cleared = service.query("SELECT sequence FROM clearing_clearing WHERE user_id = %s AND state = 'cleared' ORDER BY cleared_at", self.HOT)
        oldest = service.query("SELECT sequence FROM clearing_clearing WHERE user_id = %s ORDER BY sequence LIMIT %s", self.HOT, len(cleared))
        assert cleared == oldest
        assert count(service, "SELECT count(*) FROM clearing_clearing WHERE user_id = %s AND state = 'waiting'", self.HOT) > self.ORDERS / 2
