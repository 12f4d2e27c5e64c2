"""What an upgrade meets: orders in every state, open interventions and quarantined messages, all
made by the old release's own processes and its admin.

The worker is stopped while the orders are placed, so that each fault can name its order.
"""

import json
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg2
from kafka import KafkaProducer

from tests.support.waiting import wait_until
from tests.upgrade.operators import Operator
from tests.upgrade.release import Release, UpgradeError

STATES: Final = ("waiting", "queued", "running", "retrying", "pending", "unknown", "parked", "cleared", "voided")
EACH: Final = 2  # orders of each kind: three that fail at one counterparty would open its breaker
BURST_ORDERS: Final = 150
BURSTS_MAX: Final = 8
BURST_LATENCY_MS: Final = 300
UNREADABLE: Final = (b"not JSON", b'{"data": "no rows"}')
FIRST_USER: Final = 800_000  # none of place_orders' users, which would wait behind orders that don't move
BURST_USER: Final = 1_000
STATE_SECONDS_MAX: Final = 90
LONG_PENDING_MS: Final = 100_000


@dataclass
class Servers:
    """The servers and the sandbox of the run, by their addresses."""

    variables: dict[str, str]

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of the service's database."""
        session = psycopg2.connect(self.variables["DATABASE_URL"])
        try:
            with session.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchall()
        finally:
            session.close()

    def count(self, sql: str, *values: object) -> int:
        """The number that a query returns."""
        return int(self.query(sql, *values)[0][0])

    def states(self) -> Counter[str]:
        """Orders by state."""
        return Counter(dict(self.query("SELECT state, count(*) FROM clearing_clearing GROUP BY state")))

    def set_fault(self, **fields: object) -> str:
        """Orders a fault at the sandbox; its id."""
        return str(self._send(self._sandbox("/sandbox/faults"), fields)["id"])

    def clear_faults(self, fault_id: str = "") -> None:
        """Deletes a fault, or all of them."""
        path = f"/sandbox/faults/{fault_id}" if fault_id else "/sandbox/faults"
        urllib.request.urlopen(urllib.request.Request(self._sandbox(path), method="DELETE"), timeout=30).close()

    def place(self, user: int) -> str:
        """One order of a user; its id."""
        order = {"user_id": str(FIRST_USER + user), "direction": "OPEN", "asset": "BTC", "quantity": "0.05"}
        return str(self._send(f"{self.variables['COUNTER_URL']}/v1/orders", order)["order_id"])

    def publish(self, messages: Sequence[bytes]) -> None:
        """Writes messages to the topic."""
        producer = KafkaProducer(bootstrap_servers=self.variables["KAFKA_BOOTSTRAP_SERVERS"].split(","))
        for message in messages:
            producer.send(self.variables["KAFKA_TOPIC"], message).get(30)
        producer.close()

    def _sandbox(self, path: str) -> str:
        return self.variables["COUNTER_URL"].rsplit("/", 1)[0] + path

    @staticmethod
    def _send(url: str, fields: object) -> dict[str, Any]:
        request = urllib.request.Request(url, json.dumps(fields).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.loads(answer.read()))


@dataclass
class Scene:
    """The old release's orders, by the state that each was brought into."""

    servers: Servers
    old: Release
    orders: dict[str, list[str]] = field(default_factory=dict)
    interventions: list[int] = field(default_factory=list)  # those that wait for a second operator

    def set_up(self, ann: Operator, bob: Operator) -> None:
        """Makes everything but the burst, which `burst` makes just before the migration."""
        self.old.services("down", "worker")
        self._place()
        self._set_faults()
        self.old.services("up", "worker")
        for state in ("parked", "retrying", "unknown", "pending"):
            self._wait_for(state)
        self.servers.publish(UNREADABLE)
        wait_until(lambda: self.quarantined() >= len(UNREADABLE), seconds=STATE_SECONDS_MAX)
        self._intervene(ann, bob)

    def burst(self) -> tuple[str, Counter[str]]:
        """Slow calls and more orders than the workers take: some are queued, running and waiting
        for a while. Returns the fault that makes the calls slow, and the states of a moment when
        orders were in all of them (a moment later an attempt may have taken the last one of a
        state through `running`).
        """
        slow = self.servers.set_fault(counterparty="*", operation="*", kind="latency", latency_ms=BURST_LATENCY_MS)
        states: Counter[str] = Counter()

        def seen_enough() -> bool:
            states.clear()
            states.update(self.servers.states())
            return all(states[state] for state in STATES) or not states["queued"]

        for _ in range(BURSTS_MAX):  # an attempt takes a retrying order through other states: not every burst meets them all
            for number in range(BURST_ORDERS):
                self.servers.place(BURST_USER + number % (BURST_ORDERS // 2))
            wait_until(lambda: self.servers.states()["queued"], seconds=STATE_SECONDS_MAX)
            wait_until(seen_enough, seconds=STATE_SECONDS_MAX)
            if all(states[state] for state in STATES):
                return slow, states
        missing = ", ".join(state for state in STATES if not states[state])
        raise UpgradeError(f"no order was {missing} when {BURSTS_MAX} bursts of {BURST_ORDERS} orders were worked off: {dict(states)}")

    def quarantined(self) -> int:
        """Rows in the quarantine."""
        return self.servers.count("SELECT count(*) FROM orders_quarantined")

    def ids(self, state: str) -> list[int]:
        """The clearings of the orders that were brought into that state."""
        sql = "SELECT c.id FROM clearing_clearing c JOIN orders_syncorder o ON o.id = c.order_id WHERE o.order_id = ANY (%s) ORDER BY c.id"
        rows = self.servers.query(sql, self.orders[state])
        return [row[0] for row in rows]

    def _place(self) -> None:
        users = {"cleared": range(4), "parked": range(10, 16), "retrying": range(20, 20 + EACH), "unknown": range(30, 30 + EACH)}
        users |= {"pending": range(40, 40 + EACH), "waiting": range(20, 20 + EACH)}  # behind those that are retrying
        self.orders = {state: [self.servers.place(user) for user in numbers] for state, numbers in users.items()}

    def _set_faults(self) -> None:
        faults = {
            "parked": [{"counterparty": "counter", "operation": "adjust", "kind": "refuse", "count": 1}],
            "retrying": [{"counterparty": "trading", "operation": "exchange", "kind": "status", "status": 403, "code": "forbidden"}],
            "unknown": [
                {"counterparty": "counter", "operation": "adjust", "kind": "apply_then_5xx", "status": 502, "count": 1},
                {"counterparty": "counter", "operation": "status", "kind": "status", "status": 503},
            ],
            "pending": [{"counterparty": "fund", "operation": "transfer", "kind": "in_progress", "latency_ms": LONG_PENDING_MS, "count": 1}],
        }
        for state, kinds in faults.items():
            for order_id in self.orders[state]:
                for fault in kinds:
                    self.servers.set_fault(**fault, match=order_id)

    def _wait_for(self, state: str) -> None:
        sql = "SELECT count(*) FROM clearing_clearing WHERE id = ANY (%s) AND state = %s"
        wait_until(lambda: self.servers.count(sql, self.ids(state), state) == len(self.orders[state]), seconds=STATE_SECONDS_MAX)

    def _intervene(self, ann: Operator, bob: Operator) -> None:
        """One order is voided; a void of another and a confirmation wait for a second operator."""
        voided, void_asked = self.ids("parked")[:2]
        unknown = self.ids("unknown")[0]
        bob.decide(self._asked(ann, voided, "void"), "approve")
        wait_until(lambda: self.servers.states()["voided"] == 1, seconds=STATE_SECONDS_MAX)
        self.interventions = [self._asked(ann, void_asked, "void"), self._asked(ann, unknown, "confirm_not_done")]

    def _asked(self, operator: Operator, clearing: int, kind: str) -> int:
        """The intervention that an operator requested. The request is made again while the order is
        refused one because an attempt of it runs at that moment.
        """
        found: list[int] = []

        def requested() -> bool:
            operator.ask(clearing, kind)
            rows = self.servers.query("SELECT id FROM clearing_intervention WHERE clearing_id = %s AND state = 'requested'", clearing)
            found.extend(row[0] for row in rows)
            return bool(found)

        wait_until(requested, seconds=STATE_SECONDS_MAX, pause_seconds=0.5)
        return found[0]
