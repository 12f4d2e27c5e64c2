"""The sweep beside a hundred thousand orders: it reads few rows, and a long backlog isn't sent
again.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as service
from django.db import connection

from base.clock import shift_clock
from clearing.dispatch import broker, publish
from clearing.dispatch.queues import lane_queue
from clearing.gateways import counterparty_state
from clearing.models import Clearing
from clearing.store import interventions, recovery
from ops.recovery.sweep import sweep
from tests.support.states import any_transition

ORDERS = 100_000
BACKLOG = 20_000
LANES = 16
ORDERS_SQL = """
    INSERT INTO orders_syncorder (order_id, user_id, shard, sequence, contract_id, direction, asset, quantity, quoted_usdt, instrument, created_ms,
                                  source, topic, canonical_hash)
    SELECT 'scale-' || n, 'u' || n, 0, n, 'c' || n, 'OPEN', 'BTC', 0.05, 3000, 'BTC-OPTION', 1700000000000 + n, 'kafka', '', ''
    FROM generate_series(1, %s) n
"""
CLEARINGS_SQL = """
    INSERT INTO clearing_clearing (order_id, user_id, contract_id, created_ms, shard, sequence, flow, lane, state, step, epoch, queued_at,
                                   broker_generation, due_at, waits_for, claimed_until, error_code, cleared_at)
    SELECT id, user_id, contract_id, created_ms, 0, sequence, 1, sequence %% {lanes}, state, 1, 1,
           service_now() - interval '60 s' + sequence * interval '0.6 ms', %s,
           CASE WHEN state IN ('retrying', 'unknown') THEN service_now() - interval '1 s' END,
           CASE WHEN state IN ('retrying', 'unknown') THEN 'counter:1' ELSE '' END,
           CASE WHEN state = 'running' THEN service_now() + interval '1 h' END, CASE WHEN state = 'parked' THEN 'x' ELSE '' END,
           CASE WHEN state = 'cleared' THEN service_now() END
    FROM (SELECT *, {state} AS state FROM orders_syncorder) o
"""
MIXED = """
    CASE WHEN sequence %% 20 = 0 THEN 'queued' WHEN sequence %% 50 = 1 THEN 'waiting' WHEN sequence %% 50 = 2 THEN 'retrying'
         WHEN sequence %% 1000 = 3 THEN 'running' WHEN sequence %% 100 = 4 THEN 'parked' ELSE 'cleared' END
"""


def create(state: str, orders: int = ORDERS) -> str:
    """So many orders; `state` is SQL. Returns the generation that they were queued in."""
    broker.client().flushdb()
    generation = broker.read_generation()
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', '0', true), set_config('transaction_timeout', '0', true)")
        cursor.execute(ORDERS_SQL, [orders])
        with any_transition():
            cursor.execute(CLEARINGS_SQL.format(lanes=LANES, state=state), [generation])
        cursor.execute("ANALYZE clearing_clearing")
    return generation


@pytest.fixture(autouse=True)
def unshifted(db: None) -> Iterator[None]:
    yield
    shift_clock(0)


def rows_visited(plan: dict[str, Any]) -> float:
    """How many rows of the status table the plan's scans have looked at."""
    own = 0.0
    if plan.get("Relation Name") == "clearing_clearing":
        own = plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0))
    return own + sum(rows_visited(child) for child in plan.get("Plans", []))


class TestReadsFewRows:
    def test_whatever_the_number_of_orders(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generation = create(MIXED)
        asked: list[tuple[str, Any]] = []
        real = recovery.call  # type: ignore[attr-defined]

        def noted(sql: str, params: Any) -> Any:
            asked.append((sql, params))
            return real(sql, params)

        monkeypatch.setattr(recovery, "call", noted)
        monkeypatch.setattr(counterparty_state, "call", noted)
        limit = service.SWEEP_ROWS_MAX
        stages: dict[str, Callable[[], object]] = {
            "orphaned": lambda: recovery.orphaned(limit),
            "due": lambda: recovery.due({}, limit),
            "unclaimed": lambda: recovery.unclaimed(generation, gone_seconds=2, limit=limit),
            "stalled": lambda: recovery.stalled_lanes("", 1_000),
            "in flight": counterparty_state.in_flight,
        }

        visited = {}
        for name, stage in stages.items():
            asked.clear()
            stage()
            [(sql, params)] = asked
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
                [answer] = cursor.fetchone() or [None]
            plan = json.loads(answer) if isinstance(answer, str) else answer
            visited[name] = rows_visited(plan[0]["Plan"])

        # of 100,000: 5,000 are queued, 2,000 wait, 2,000 are due, 100 run; what is finished or
        # parked costs nothing
        most = {"orphaned": 250, "due": 250, "unclaimed": 5_100, "stalled": 4_000, "in flight": 2_250}
        assert {name: rows for name, rows in visited.items() if rows > most[name]} == {}, visited

    def test_also_to_tell_people_of_what_nobody_knows(self) -> None:
        """Its statement is in a function, whose plan nobody is shown: what it fetched is
        counted.
        """
        create("CASE WHEN sequence %% 10 = 0 THEN 'unknown' WHEN sequence %% 10 = 1 THEN 'retrying' ELSE 'cleared' END")
        before = fetched()

        interventions.remind_unknown(limit=20, window=500)

        assert fetched() - before <= 1_100  # 500 of each state, of which there are 10,000 unknown and none pending


def fetched() -> int:
    """How many rows of the status table this transaction has read, by whatever way."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_stat_get_xact_tuples_returned(t) + pg_stat_get_xact_tuples_fetched(t) FROM (SELECT 'clearing_clearing'::regclass AS t) s"
        )
        [count] = cursor.fetchone() or [0]
    return int(count)


class SimulatedQueues:
    """The lanes' queues: messages in the order of their queueing, workers that take them evenly and
    hold some that they haven't claimed.
    """

    def __init__(self, held_a_lane: int) -> None:
        rows = Clearing.objects.order_by("queued_at").values_list("pk", "lane", "queued_at")
        self.lanes: dict[int, list[tuple[int, int]]] = {lane: [] for lane in range(LANES)}
        for pk, lane, queued_at in rows:
            assert queued_at is not None
            self.lanes[lane].append((pk, int(queued_at.timestamp() * 1000)))
        self.taken = dict.fromkeys(range(LANES), 0)
        self.claimed = dict.fromkeys(range(LANES), 0)
        self.held = held_a_lane

    def drain(self, messages: float) -> None:
        """So many of each lane are taken; all but the last few of them are claimed, and cleared."""
        done: list[int] = []
        for lane, queue in self.lanes.items():
            self.taken[lane] = min(len(queue), self.taken[lane] + round(messages))
            upto = max(self.taken[lane] - self.held, 0)
            done += [pk for pk, _ in queue[self.claimed[lane] : upto]]
            self.claimed[lane] = max(upto, self.claimed[lane])
        with connection.cursor() as cursor, any_transition():
            cursor.execute("UPDATE clearing_clearing SET state = 'cleared', cleared_at = service_now() WHERE id = ANY (%s)", [done])

    def length(self, queue: str) -> int:
        lane = self._lane(queue)
        return 0 if lane is None else len(self.lanes[lane]) - self.taken[lane]

    def oldest(self, queue: str) -> int | None:
        lane = self._lane(queue)
        return None if lane is None or not self.length(queue) else self.lanes[lane][self.taken[lane]][1]

    @staticmethod
    def _lane(queue: str) -> int | None:
        return next((lane for lane in range(LANES) if lane_queue(lane) == queue), None)


class TestBacklog:
    def repeats(self, monkeypatch: pytest.MonkeyPatch) -> int:
        """How often messages are sent again while the orders are drained in ten minutes, a pass
        every four seconds.
        """
        create("'queued'", BACKLOG)
        queues = SimulatedQueues(held_a_lane=4)
        monkeypatch.setattr(broker, "length", queues.length)
        monkeypatch.setattr(broker, "oldest_queued_ms", queues.oldest)
        monkeypatch.setattr(publish, "publish", lambda *_, **__: True)
        seconds, step, sent = 600, 4, 0
        for now in range(step, seconds, step):
            queues.drain(BACKLOG / LANES * step / seconds)
            shift_clock(now)
            sent += sweep()["sent_again"]
        return sent

    def test_of_ten_minutes_is_repeated_by_less_than_one_percent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.repeats(monkeypatch) < BACKLOG / 100
