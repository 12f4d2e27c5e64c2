"""Workers that stand still in the worst places: while they hold locks, and between taking the time
and signing with it.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import clock_gettime

import pytest
from django.db import OperationalError

from base.clock import shift_clock
from clearing.gateways import Adjusted, Done, SigningClock, StoredRequest
from clearing.models import Clearing
from clearing.running.runner import Runner
from clearing.status import State
from clearing.store import claim_clock, claims, recovery
from stack.rundir import CHECKOUT
from tests.support.beside import beside
from tests.support.orders import World, outcomes
from tests.support.processes import environment_here

HOLDER = """
import os, signal, sys, django; django.setup()
from django.db import transaction
from clearing.store import claims
with transaction.atomic():
    claims.hold(sys.argv[1], "contents_differ", actor="frozen", generation="")
    print("holds", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextmanager
def frozen_while_it_holds(clearing: Clearing, *, idle_ms_max: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has the lane's lock and the order's row, and was stopped then (SIGSTOP). It
    ends with the block.
    """
    command = [sys.executable, "-c", HOLDER, clearing.order.order_id]
    limits = {"DATABASE_IDLE_MS_MAX": str(idle_ms_max), "DATABASE_STATEMENT_MS_MAX": "600000", "CONSUMER_STALL_SECONDS_MAX": "2000"}
    environment = environment_here(DJANGO_SETTINGS_MODULE="acceptance_site.settings", **limits)
    with subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "holds\n"
            os.waitpid(process.pid, os.WUNTRACED)  # it stands
            yield process
        finally:
            process.kill()


class TestWithLocks:
    def test_the_others_go_on_and_so_does_its_own_lane_when_the_database_ends_its_session(self, busy_world: World) -> None:
        held, other = busy_world.accept("1"), busy_world.accept("2")

        with frozen_while_it_holds(held, idle_ms_max=1_500) as holder:
            busy_world.run(other)
            thread, found = beside(lambda: busy_world.run(held))
            thread.join(60)
            goes_on = not thread.is_alive()
            holder.send_signal(signal.SIGCONT)
            ended_with = holder.wait(30)
        thread.join(30)

        held.refresh_from_db()
        assert goes_on, "a frozen process kept an order's row until it was killed"
        assert (other.state, held.state, held.hold_code) == (State.CLEARED, State.CLEARED, "")
        assert (ended_with, found) == (1, [held])

    def test_who_waits_for_its_lane_is_told_so_and_does_not_wait_for_ever(self, busy_world: World) -> None:
        held = busy_world.accept("1")

        with frozen_while_it_holds(held, idle_ms_max=120_000), pytest.raises(OperationalError, match="lock timeout"):
            claims.hold(held.order.order_id, "contents_differ", actor="test", generation="")


@dataclass
class FreezesAfterTheTime:
    """A claim's clock: who has asked it stands still until the test lets it go on, the first
    time.
    """

    clock: SigningClock
    arrived: threading.Event
    goes_on: threading.Event

    def timestamp_ms(self) -> int:
        taken = self.clock.timestamp_ms()
        self.arrived.set()
        assert self.goes_on.wait(60)
        return taken


@dataclass
class Counter:
    """The counter of a worker that is to be frozen between taking the time and signing."""

    world: World
    arrived: threading.Event
    goes_on: threading.Event

    def adjust(self, stored: StoredRequest, clock: SigningClock) -> Done[Adjusted]:
        return self.world.counterparties.gateways().counter.adjust(stored, FreezesAfterTheTime(clock, self.arrived, self.goes_on))

    def status(self, stored: StoredRequest, clock: SigningClock) -> Done[Adjusted] | None:
        return self.world.counterparties.gateways().counter.status(stored, clock)


class TestBetweenTheTimeAndTheSignature:
    def test_what_it_sends_on_waking_is_refused_and_not_signed_anew(self, busy_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that "never applied, and never will be" may be concluded once its claim, the
        signature's validity and a call have passed.
        """
        clearing = busy_world.accept()
        arrived, goes_on = threading.Event(), threading.Event()
        gateways = replace(busy_world.counterparties.gateways(), counter=Counter(busy_world, arrived, goes_on))
        frozen = Runner(lambda: "frozen", gateways, lambda: False, busy_world.guard)
        thread, _ = beside(lambda: frozen.run(clearing.pk, clearing.epoch))
        assert arrived.wait(30)
        now_ms = busy_world.counterparties.clock_ms

        busy_world.counterparties.clock_ms = lambda: now_ms() + 60_000  # it stood still for a minute
        for module in (claim_clock, claims):
            monkeypatch.setattr(module, "clock_gettime", lambda which: clock_gettime(which) + 60)
        shift_clock(60)
        recovery.requeue([clearing.pk], actor="sweep", generation="")
        goes_on.set()
        thread.join(60)

        assert busy_world.counterparties.applied == []
        assert outcomes(clearing) == [(1, "lost", "claim_lost")]
        busy_world.run(clearing)
        assert (clearing.state, busy_world.keys_applied(clearing)) == (State.CLEARED, ["1", "2", "3", "4"])
