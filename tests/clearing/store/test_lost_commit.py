"""The answer to a COMMIT is lost on its way: a proxy before the real PostgreSQL swallows it, and
breaks the connection.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest
from django.db import connection

from base.clock import shift_clock
from base.db import DATABASE_UNAVAILABLE
from clearing.dispatch import publish
from clearing.gateways import Action
from clearing.gateways.fake import Fault, FaultKind
from clearing.models import Clearing
from clearing.status import State
from clearing.store import claims, recovery
from tests.leadership.proxy import CHUNK, Proxy
from tests.support.beside import beside
from tests.support.orders import World, interrupted, outcomes

IDLE = b"Z\x00\x00\x00\x05I"  # ReadyForQuery, outside a transaction: the statement is committed


class LosesAnswers(Proxy):
    """Passes everything on, but the first answer to each of the functions named."""

    def __init__(self, target: tuple[str, int], *functions: str) -> None:
        self.left = list(functions)
        self._doomed: set[socket.socket] = set()  # servers' sides of connections whose next answer is lost
        super().__init__(target)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        swallowed = b""
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                asked = [name for name in self.left if f"{name}(".encode() in data]
                if asked:
                    self.left.remove(asked[0])
                    self._doomed.add(sink)
                if source not in self._doomed:
                    sink.sendall(data)
                    continue
                swallowed += data
                if swallowed.endswith(IDLE):
                    break
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def losing() -> Iterator[Callable[..., LosesAnswers]]:
    proxies: list[LosesAnswers] = []

    def make(*functions: str) -> LosesAnswers:
        database = connection.settings_dict
        proxies.append(LosesAnswers((database["HOST"], int(database["PORT"])), *functions))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


def run_through(proxy: LosesAnswers, world: World, clearing: Clearing) -> None:
    """A worker whose PostgreSQL is behind the proxy runs the clearing."""

    def run() -> None:
        connection.settings_dict = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": str(proxy.port)}  # this thread's own
        world.runner().run(clearing.pk, clearing.epoch)

    thread, found = beside(run)
    thread.join(60)
    assert (found, proxy.left) == ([None], [])
    clearing.refresh_from_db()


class TestTheWorker:
    def test_goes_on_from_step_to_step_to_its_users_next_order(self, busy_world: World, losing: Callable[..., LosesAnswers]) -> None:
        first, second = busy_world.accept("1"), busy_world.accept("1")
        proxy = losing("clearing_step_done", "clearing_step_done", "clearing_step_done", "clearing_finish")

        run_through(proxy, busy_world, first)

        second.refresh_from_db()
        assert (first.state, second.state) == (State.CLEARED, State.CLEARED)
        assert busy_world.keys_applied(first) == busy_world.keys_applied(second) == ["1", "2", "3", "4"]
        assert outcomes(first) == [(step, "done", "") for step in (1, 2, 3, 4)]  # recorded once each

    def test_takes_a_settled_failure_for_settled(self, busy_world: World, losing: Callable[..., LosesAnswers]) -> None:
        busy_world.counterparties.script(Action.ADJUST, Fault(kind=FaultKind.APPLY_THEN_TIMEOUT))
        clearing = busy_world.accept()

        run_through(losing("clearing_settle"), busy_world, clearing)

        assert (clearing.state, clearing.tries, outcomes(clearing)) == (State.UNKNOWN, 1, [(1, "unknown", "timeout")])

    def test_knows_its_claim_again_and_reconciles_before_it_resends(self, busy_world: World, losing: Callable[..., LosesAnswers]) -> None:
        clearing = busy_world.accept()

        run_through(losing("clearing_claim_3"), busy_world, clearing)

        assert (clearing.state, busy_world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])
        assert outcomes(clearing)[:2] == [(1, "?retryable", "unknown_key"), (1, "done", "")]

    def test_knows_it_again_also_when_that_answer_is_lost_too(self, busy_world: World, losing: Callable[..., LosesAnswers]) -> None:
        clearing = busy_world.accept()

        run_through(losing("clearing_claim_3", "clearing_claim_again_3"), busy_world, clearing)

        assert (clearing.state, busy_world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])


class TestTheSweep:
    def test_takes_a_claim_back_once(self, busy_world: World, losing: Callable[..., LosesAnswers]) -> None:
        """Its next pass finds the order queued, and its message gone."""
        clearing = busy_world.accept()
        claims.claim(clearing.pk, clearing.epoch, worker=lambda: "dead", gives_up=lambda: True)
        proxy = losing("clearing_redispatch")

        def take_back() -> None:
            connection.settings_dict = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": str(proxy.port)}
            with contextlib.suppress(*DATABASE_UNAVAILABLE):
                shift_clock(60)
                recovery.requeue([clearing.pk], actor="sweep", generation=publish.generation())

        thread, _ = beside(take_back)
        thread.join(60)
        shift_clock(60)
        again = recovery.requeue(interrupted(), actor="sweep", generation=publish.generation())

        clearing.refresh_from_db()
        assert (proxy.left, again) == ([], [])
        assert (clearing.state, clearing.epoch, outcomes(clearing)) == (State.QUEUED, 2, [(1, "lost", "claim_lost")])
