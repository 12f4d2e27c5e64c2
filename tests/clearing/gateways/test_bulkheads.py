"""One counterparty that doesn't answer, and eight threads that have the others' calls to make,
too.
"""

import threading
from dataclasses import dataclass
from typing import Any

from django.db import connection

from base.http import HttpAnswer
from clearing.gateways import Counterparty
from clearing.gateways.http import Client, Limits, over
from clearing.models import Clearing
from clearing.running.runner import Runner
from clearing.status import State
from tests.support.orders import World
from tests.support.waiting import wait_until

THREADS, SLOTS, ORDERS = 8, 4, 60


@dataclass
class SlowClient:
    """A connection whose answers are held back until they may come."""

    client: Client
    may_answer: threading.Event

    def request(self, *arguments: Any, **named: Any) -> HttpAnswer:
        assert self.may_answer.wait(120)
        return self.client.request(*arguments, **named)


def test_a_slow_counterparty_does_not_hold_up_the_healthy_steps(busy_world: World) -> None:
    may_answer = threading.Event()
    clients = dict(busy_world.counterparties._services)
    slow = SlowClient(clients[Counterparty.TRADING], may_answer)
    doors = over(lambda name: slow if name == Counterparty.TRADING else clients[name], Limits(deadline_ms=3_000, calls_max=SLOTS, slot_wait_ms=50))
    todo = [busy_world.accept(str(user)) for user in range(ORDERS)]
    lock = threading.Lock()

    def work() -> None:
        runner = Runner(lambda: "w", doors, lambda: False, busy_world.guard)
        while True:
            with lock:
                clearing = todo.pop() if todo else None
            if clearing is None:
                break
            runner.run(clearing.pk, clearing.epoch)
        connection.close()

    def done(step: int) -> int:
        return len([effect for effect in list(busy_world.counterparties.applied) if effect.key.endswith(f":{step}")])

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: done(2) == ORDERS, seconds=60)  # with every thread in a call to trading, eight would have come so far

        assert done(3) == 0
        wait_until(lambda: Clearing.objects.filter(state=State.RETRYING, error_code="counterparty_busy", attempts=0).count() == ORDERS - SLOTS)
    finally:
        may_answer.set()
        for thread in threads:
            thread.join(60)
