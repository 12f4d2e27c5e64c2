"""Everybody who acts in the simulation: workers of two releases, two sweeps, intake, a person, and
whoever breaks things.
"""

from collections import Counter as Counts
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from threading import Thread
from typing import Final, NoReturn

from django.conf import settings
from django.db import OperationalError

from base.db import DATABASE_UNAVAILABLE, call
from base.fence import TermOutdated, current, fence_of
from base.incarnation import Registration, heartbeat_errors_logged
from clearing.dispatch.queues import ISOLATED_QUEUE
from clearing.gateways import Counterparty
from clearing.gateways.circuit_breaker import Guard
from clearing.models import Clearing
from clearing.running.in_process import InFlight
from clearing.running.runner import Runner
from clearing.status import State
from ops.recovery.probe import probe_all
from ops.recovery.sweep import sweep
from ops.wiring import ingest_from_gap, ingest_from_kafka
from orders.backfill.gap_pass import GapPass
from orders.intake.classify import Item
from orders.intake.mapping import Rules
from orders.intake.result import IngestResult
from tests.simulation.attempts import counted
from tests.simulation.broker import MemoryBroker
from tests.simulation.counter import Counter
from tests.simulation.counterparties import OUTAGES, Counterparties
from tests.simulation.doors import Doors
from tests.simulation.people import People
from tests.simulation.scheduler import Actor, Dead, Process, Scheduler

WORKERS: Final = 4
OLD: Final = 3  # the number of the one of the old release
SLOTS: Final = 6
USERS: Final = 200
ORDERS_PER_SECOND: Final = 80.0
PROGRESS_ORDERS: Final = 100
BATCH_MAX: Final = 40
OVERLAP_MS: Final = 6_000
PAGE_ROWS: Final = 200
QUIET_SECONDS_MAX: Final = 300.0  # after the last order and the last fault: who isn't cleared by then is stranded
BREAK_SECONDS: Final = (1.0, 6.0)  # between two things that are broken
TROUBLES: Final = ("kill", "kill", "stop", "wipe", "lead", "outage", "poison")
OUTAGE_SECONDS: Final = (1.0, 8.0)
LONG_OUTAGE: Final = 0.2  # of outages
LONG_OUTAGE_SECONDS: Final = (25.0, 40.0)  # longer than keys are taken for kept (run.py)
POISON_DEATHS: Final = (1, 6)  # workers that one order kills; it runs alone after three, and parks after two more there
PAUSE_SECONDS: Final = (8.0, 25.0)  # between two pauses by people
PAUSED_SECONDS: Final = (2.0, 8.0)
NO_HEART: Final = Thread()
NEXT_TERM: Final = "UPDATE base_leaderterm SET term = term + 1 RETURNING term"  # another leads, and the old one doesn't know


@dataclass
class World:
    """One simulated run."""

    orders: int
    seed: int
    progressed: Callable[[int], None] = lambda _: None
    scheduler: Scheduler = field(default_factory=Scheduler)
    deaths: Counts[str] = field(default_factory=Counts)
    finished: bool = False
    outdated: int = 0  # sweeps that were fenced off
    _placing: bool = True

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.attempts_before = counted()
        self.broker = MemoryBroker(self.scheduler, self.random)
        self.doors = Doors(self.scheduler, self.broker, self.random)
        self.counterparties = Counterparties(self.doors.now_ms, self.random)
        self.counter = Counter(self.doors.now_ms, self.random, USERS)
        self.workers: list[Worker] = []
        self.people = People(self.scheduler, self.doors, self.random, self.counterparties)
        self.scheduler.on_turn = self._take_turn
        self._in_place: bool | None = None

    def run(self) -> None:
        """Until every order is cleared, or long after the last one was placed."""
        for number in range(WORKERS):
            self._start_worker(number)
        for number in range(2):
            self._start(f"sweeper-{number}", self._sweep)
        self._start("consumer", self._consume)
        self._start("gap-pass", self._compensate)
        self._start("probe", self._probe)
        self._start("users", self._place)
        self._start("ann", self.people.ask)
        self._start("ben", self.people.approve)
        self._start("operator", self._pause_counterparties)
        self._start("breaker", self._break_things)
        self._start("observer", self._observe)
        self.scheduler.run()

    # --- Processes --------------------------------------------------------------------------------
    def _start(self, name: str, act: Callable[[], None], after: float = 0.0) -> Process:
        process = Process(name, boot_seconds=self.random.uniform(-3_600, 3_600), drift=self.random.uniform(-0.002, 0.002))
        self.scheduler.spawn(process, act, after=after)
        return process

    def _start_worker(self, number: int, after: float = 0.0) -> None:
        process = Process(f"worker-{number}", self.random.uniform(-3_600, 3_600), self.random.uniform(-0.002, 0.002), in_place=number != OLD)
        worker = Worker(self, number, process)
        worker.start(after)
        self.workers.append(worker)

    def _take_turn(self, actor: Actor) -> None:
        if actor.process.in_place is not self._in_place:
            settings.CLEARING_RUN_STEPS_INLINE = self._in_place = actor.process.in_place

    def _again(self, name: str, act: Callable[[], None]) -> None:
        """A process that died is started again."""
        self._start(name, act, after=self.random.uniform(0.5, 3.0))

    def _perhaps_die(self, name: str, act: Callable[[], None], share: float) -> None:
        """The current process dies here, now and then."""
        if self._placing and self.random.random() < share:
            self.deaths[name.rstrip("-0123456789")] += 1
            self._again(name, act)
            raise Dead

    # --- Intake -----------------------------------------------------------------------------------
    def _place(self) -> None:
        for number in range(self.orders):
            self.counter.place()
            if number % PROGRESS_ORDERS == 0:
                self.progressed(number)
            self.scheduler.pause(self.random.expovariate(ORDERS_PER_SECOND), "an order is placed")
        self._placing = False
        self.broker.quiet = self.doors.quiet = self.counterparties.quiet = True
        self.scheduler.pause(5.0)
        self.counter.bring_late()

    _offset = 0

    def _consume(self) -> None:
        """Reads the log from the committed offset on; what it hadn't committed when it died, it
        reads again.
        """
        while True:
            batch = self.counter.log[self._offset : self._offset + self.random.randint(1, BATCH_MAX)]
            if batch:
                self._take(partial(ingest_from_kafka, batch))
                self._perhaps_die("consumer", self._consume, 0.01)
                self._offset += len(batch)
                if self._placing and self.random.random() < 0.01:  # the log, or a part of it, once more
                    self._offset = max(0, self._offset - self.random.randint(1, 400))
            self.scheduler.pause(self.random.uniform(0.005, 0.1), "the log was read")

    def _compensate(self) -> None:
        while True:
            self.scheduler.pause(3.0, "gap pass")
            self.doors.set_clock()
            GapPass(self.counter, self._take_gap, Rules.from_settings(), OVERLAP_MS, PAGE_ROWS).run()

    def _take_gap(self, items: Sequence[Item]) -> IngestResult:
        self.scheduler.pause(self.random.uniform(0.001, 0.02), "a page came")
        self.doors.set_clock()
        return ingest_from_gap(items)

    def _take(self, act: Callable[[], object]) -> None:
        self.doors.set_clock()
        with suppress(OperationalError):
            act()

    # --- Recovery ---------------------------------------------------------------------------------
    def _sweep(self) -> None:
        actor = self.scheduler.current
        assert actor is not None
        term = current().term
        while True:
            self.scheduler.pause(self.random.uniform(0.9, 1.1), "sweep")
            self._perhaps_die(actor.process.name, self._sweep, 0.01)
            self.doors.set_clock()
            try:
                sweep(fence_of(term))
            except TermOutdated:
                self.outdated += 1
                term = current().term
            except OperationalError:
                continue

    def _probe(self) -> None:
        """Counterparties whose breaker is open are asked whether they are back."""
        gateways = self.counterparties.far_away(self.doors.pause)
        while True:
            self.scheduler.pause(1.0, "probe")
            self.doors.set_clock()
            with suppress(OperationalError):
                probe_all(gateways)

    def _pause_counterparties(self) -> None:
        while self._placing:
            self.scheduler.pause(self.random.uniform(*PAUSE_SECONDS), "the operator thinks")
            self.people.pause_one(self.random.uniform(*PAUSED_SECONDS))

    # --- Breaking and looking on ------------------------------------------------------------------
    def _break_things(self) -> None:
        while self._placing:
            self.scheduler.pause(self.random.uniform(*BREAK_SECONDS), "something breaks")
            worker = self.random.choice(self.workers)
            match self.random.choice(TROUBLES):
                case "kill":
                    self._kill(worker)
                case "stop":
                    worker.stop()
                case "lead":
                    call(NEXT_TERM, [])
                case "outage":
                    self._let_one_fall()
                case "poison":
                    self.counterparties.poisonous[next(reversed(self.counter.placed))] = self.random.randint(*POISON_DEATHS)
                case _:
                    self.broker.wipe()

    def _let_one_fall(self) -> None:
        seconds = LONG_OUTAGE_SECONDS if self.random.random() < LONG_OUTAGE else OUTAGE_SECONDS
        self.counterparties.fall(self.random.choice(list(Counterparty)), self.random.choice(OUTAGES), self.random.uniform(*seconds))

    def poison(self, worker: "Worker") -> NoReturn:
        """The worker dies of the order that it runs."""
        if worker in self.workers:
            self._kill(worker, "worker poisoned")
        raise Dead

    def _kill(self, worker: "Worker", how: str = "worker") -> None:
        self.deaths[how] += 1
        self.workers.remove(worker)
        self.scheduler.kill(worker.process)
        self._start_worker(worker.number, after=self.random.uniform(0.5, 4.0))

    def worker_ended(self, worker: "Worker") -> None:
        """It had been told to stop."""
        if worker in self.workers:
            self.deaths["worker told to stop"] += 1
            self.workers.remove(worker)
            self._start_worker(worker.number, after=self.random.uniform(0.5, 4.0))

    def _observe(self) -> None:
        quiet_since = None
        while not self.finished:
            self.scheduler.pause(1.0, "look")
            if self._placing:
                continue
            quiet_since = quiet_since or self.scheduler.now
            cleared = Clearing.objects.filter(state=State.CLEARED).count()
            self.finished = cleared >= self.orders
            if self.scheduler.now - quiet_since > QUIET_SECONDS_MAX:
                break
        self.scheduler.stop()


@dataclass(eq=False)
class Worker:
    """A worker process: its registration, its slots, and the release that it is of."""

    world: World
    number: int
    process: Process
    stopping: bool = False
    slots: list[Actor] = field(default_factory=list)
    left: int = SLOTS

    def __post_init__(self) -> None:
        self.registration = Registration("worker")
        self.registration._heartbeat = NO_HEART  # beats as an actor
        self.gateways = self.world.counterparties.far_away(self.world.doors.pause, lambda: self.world.poison(self))
        self.guard = Guard(lambda: self.registration.name)
        self.in_flight = InFlight()

    def start(self, after: float) -> None:
        """After so many seconds its slots take messages, and it beats."""
        scheduler = self.world.scheduler
        self.slots = [scheduler.spawn(self.process, self._work, after=after) for _ in range(SLOTS)]
        scheduler.spawn(self.process, self._beat, after=after)

    def stop(self) -> None:
        """SIGTERM: it takes nothing more, and hands back what it holds."""
        self.stopping = True
        self.world.broker.wake_all(self.slots)

    def _work(self) -> None:
        while (taken := self.world.broker.take(lambda: self.stopping)) is not None:
            queue, (clearing_id, epoch, _) = taken
            isolated = queue == ISOLATED_QUEUE
            runner = Runner(
                lambda: self.registration.name,
                self.gateways,
                lambda: self.stopping,
                self.guard,
                isolated,
                in_flight=self.in_flight,
                outlived=self.registration.outlived,
            )
            with suppress(*DATABASE_UNAVAILABLE):
                runner.run(clearing_id, epoch)
        self.left -= 1
        if not self.left:
            self.registration.end()
            self.world.worker_ended(self)
            self.process.dead = True

    def _beat(self) -> None:
        while True:
            self.world.scheduler.pause(1.0, "beat")
            if self.registration._name:
                with heartbeat_errors_logged():
                    self.registration.beat()
