"""Orders through a pipeline that drops, repeats, reorders and delays messages: each must be
accepted exactly once, and every dropped one be found by gap compensation in time: `python -m
tests.endurance.lossy` (make lossy-intake).

Real are the consumer, beat, worker-ops, PostgreSQL, Valkey and the embedded Kafka; in the counter's
place stands tests/endurance/counter.py. No worker runs, so that all orders stay queued: what the
sweep sends again meanwhile is counted, too.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.machine import Rate, slowness
from stack.ports import find_free
from stack.rundir import CHECKOUT
from tests.endurance.verdict import Comparison, Latency, compare, queued, read_orders
from tests.support.service import LiveService, live_service
from tests.support.waiting import wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python warns of its own import
    from kafka import KafkaConsumer, TopicPartition

TOPIC: Final = "counter.sync_order"
GROUP: Final = "acceptance"
FOUND_MS_MAX: Final = 6_000
RESENT_SHARE_MAX: Final = 0.01
SHARDS: Final = 4
READY_SECONDS_MAX: Final = 60.0
TAIL_SECONDS_MAX: Final = 90.0
RATE_MAX: Final = 300.0  # orders a second, unless told otherwise
TRIAL_ORDERS, TRIAL_RATE, TRIAL_DELAY_SECONDS = 1_000, 5_000.0, 0.3
TAKEN_SQL: Final = """
    SELECT count(*) / greatest(extract(epoch FROM max(received_at) - min(received_at)), 0.001) FROM orders_syncorder WHERE source = 'kafka'
"""
ACCEPTED_SQL: Final = "SELECT count(*) FROM orders_syncorder"
SCANNED_SQL: Final = "SELECT count(*) FROM orders_watermark WHERE scanned_at IS NOT NULL"
QUARANTINED_SQL: Final = "SELECT count(*) FROM orders_quarantined"
EPILOG: Final = f"""example:
  python -m tests.endurance.lossy --orders 100000 --rate 300 --seed 1 --json

exit code: 0 each order was accepted exactly once with its contents, every dropped one within {FOUND_MS_MAX / 1000:.0f} s of its commit, and the sweep
           sent fewer than {RESENT_SHARE_MAX:.0%} of the queued orders again; 1 otherwise"""


@dataclass
class Outcome:
    """The result of a run."""

    seed: int
    orders: int
    rate: float
    holds: float | None = None  # orders a second that the consumer took in the trial
    seconds: float = 0.0
    accepted: int = 0
    quarantined: int = 0
    queued: int = 0
    messages: int = 0  # in the lanes' queues: more than queued orders are repeats, whoever sent them
    resent: int = 0  # by the sweep, as the database counts it
    taken_a_second: float = 0.0  # orders that came by Kafka, from the first to the last
    read: bool = False  # the consumer has committed every message of the log
    behind_seconds: float = 0.0  # how late the counter was by its timetable at most: where it is much, the machine was too small
    comparison: Comparison = field(default_factory=Comparison)

    @property
    def failures(self) -> list[str]:
        """The conditions that don't hold."""
        wrong = [f"{count:,} orders {kind}: {', '.join(self.comparison.wrong[kind])}" for kind, count in self.comparison.counts.items()]
        if self.comparison.dropped.longest > FOUND_MS_MAX:
            wrong.append(f"a dropped order was found only {self.comparison.dropped.longest:,.0f} ms after its commit")
        if self.quarantined:
            wrong.append(f"{self.quarantined:,} messages in quarantine")
        if not self.read:
            wrong.append("the consumer hasn't read the whole log")
        repeats = max(self.resent, self.messages - self.queued)
        if repeats >= max(RESENT_SHARE_MAX * self.queued, 1):
            wrong.append(f"{repeats:,} of {self.queued:,} queued orders sent again")
        return wrong


@dataclass(frozen=True)
class Run:
    """A seed's orders, at a rate. `durable`: PostgreSQL waits for its disk. Deadlines are scaled by
    the machine's slowness.
    """

    orders: int
    rate: float
    seed: int
    delay_seconds_max: float = 60.0
    durable: bool = True

    def measure(self, folder: Path, on_progress: Callable[[int, int], None] = lambda _committed, _accepted: None) -> Outcome:
        """Brings everything up, lets the orders through, waits until nothing more can come, and
        compares.
        """
        outcome = Outcome(self.seed, self.orders, self.rate)
        port = find_free(set())
        settings = {"COUNTER_URL": f"http://127.0.0.1:{port}/counter", "COUNTER_KEY": "endurance", "KAFKA_TOPIC": TOPIC}
        served = live_service(folder, services=("consumer", "worker-ops", "beat"), durable=self.durable, **settings)
        with served as service, self._counter(service, port) as counter:
            database_url = service.variable("DATABASE_URL")
            try:
                self._let_through(outcome, Watch(service, database_url, counter), on_progress)
            except AssertionError as error:
                raise RuntimeError(f"{error}\n{service.log_tails()}") from error
            outcome.queued, outcome.resent = queued(database_url)
            outcome.messages = _messages(service)
            outcome.taken_a_second = Watch(service, database_url, counter).count(TAKEN_SQL)
            committed = counter.end()
            outcome.comparison = compare(committed, read_orders(database_url))
            return outcome

    def _let_through(self, outcome: Outcome, watch: "Watch", on_progress: Callable[[int, int], None]) -> None:
        wait_until(lambda: watch.count(SCANNED_SQL) == SHARDS, seconds=slowness().scaled(READY_SECONDS_MAX), pause_seconds=0.2)
        wait_until(watch.consuming, seconds=slowness().scaled(READY_SECONDS_MAX), pause_seconds=0.2)
        started = time.monotonic()
        watch.counter.post("/begin")
        while not (progress := watch.counter.get("/progress"))["done"]:
            if progress["error"]:
                raise RuntimeError(f"the counter of the run failed: {progress['error']}")
            outcome.behind_seconds = progress["behind_seconds"]
            outcome.accepted = watch.count(ACCEPTED_SQL)
            on_progress(progress["committed"], outcome.accepted)
            time.sleep(0.5)
        with suppress(AssertionError):  # the comparison reports what is missing then
            wait_until(
                lambda: watch.count(ACCEPTED_SQL) >= self.orders and watch.all_read(), seconds=slowness().scaled(TAIL_SECONDS_MAX), pause_seconds=0.2
            )
        outcome.read = watch.all_read()
        outcome.accepted = watch.count(ACCEPTED_SQL)
        on_progress(self.orders, outcome.accepted)
        outcome.quarantined = watch.count(QUARANTINED_SQL)
        outcome.seconds = round(time.monotonic() - started, 1)

    @contextmanager
    def _counter(self, service: LiveService, port: int) -> Iterator["CounterProcess"]:
        report = service.folder / "counter.json"
        options = {"port": port, "kafka": service.variable("KAFKA_BOOTSTRAP_SERVERS"), "topic": TOPIC, "orders": self.orders, "rate": self.rate}
        options |= {"seed": self.seed, "delay-seconds-max": self.delay_seconds_max, "report": report}
        command = [sys.executable, "-m", "tests.endurance.counter", *(f"--{name}={value}" for name, value in options.items())]
        with (service.folder / "logs" / "counter.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=CHECKOUT, env=dict(service.environment), stdout=log, stderr=subprocess.STDOUT)
        counter = CounterProcess(process, f"http://127.0.0.1:{port}", report)
        try:
            wait_until(counter.answers, seconds=slowness().scaled(READY_SECONDS_MAX), pause_seconds=0.1)
            yield counter
        finally:
            process.kill()
            process.wait()


def trial_rate(folder: Path, seed: int) -> Rate:
    """A share of what the consumer takes on this machine, by a short run at full speed."""
    trial = Run(TRIAL_ORDERS, TRIAL_RATE, seed, TRIAL_DELAY_SECONDS).measure(folder)
    return Rate.of(trial.taken_a_second, RATE_MAX)


def _messages(service: LiveService) -> int:
    """In the queues of all lanes, and of what is to be resumed."""
    broker = service.broker()
    lengths: list[Any] = [broker.llen(queue) for queue in broker.scan_iter("clearing.*")]
    return sum(lengths)


@dataclass(frozen=True)
class CounterProcess:
    """The counter's process, as the harness steers it."""

    process: "subprocess.Popen[bytes]"
    url: str
    report: Path

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def post(self, path: str) -> None:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, method="POST"), timeout=10):
            pass

    def answers(self) -> bool:
        try:
            return bool(self.get("/progress"))
        except OSError:
            return False

    def end(self) -> list[dict[str, Any]]:
        """Ends it. Returns what it committed."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        committed: list[dict[str, Any]] = json.loads(self.report.read_text())
        return committed


class Watch:
    """What the harness looks at while orders go through: the database's counts, and how far the
    consumer has read.
    """

    def __init__(self, service: LiveService, database_url: str, counter: CounterProcess) -> None:
        self.counter = counter
        self._database_url = database_url
        self._kafka = service.variable("KAFKA_BOOTSTRAP_SERVERS")
        self._log = service.folder / "logs" / "consumer.log"

    def count(self, sql: str) -> int:
        with closing(psycopg2.connect(self._database_url)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return int((cursor.fetchone() or [0])[0])

    def consuming(self) -> bool:
        """Whether the consumer is up; what comes before it has joined its group waits for that."""
        return "consuming" in self._log.read_text()

    def all_read(self) -> bool:
        """Whether the consumer has committed every message of the log."""
        consumer = KafkaConsumer(bootstrap_servers=self._kafka, group_id=GROUP, enable_auto_commit=False, metrics_enabled=False)
        try:
            places = [TopicPartition(TOPIC, number) for number in sorted(consumer.partitions_for_topic(TOPIC) or ())]
            ends = consumer.end_offsets(places)
            return all((consumer.committed(place) or 0) >= ends[place] for place in places)
        finally:
            consumer.close(autocommit=False)


def report(outcome: Outcome) -> str:
    """The report as text."""
    found = outcome.comparison
    sources = ", ".join(f"{count:,} {source}" for source, count in sorted(found.sources.items()))
    lines = [
        f"{Rate(outcome.rate, outcome.holds)}; {slowness()}",
        f"{outcome.accepted:,} of {outcome.orders:,} orders accepted in {outcome.seconds:.0f} s ({sources}); seed {outcome.seed}, {outcome.rate:g}/s",
        f"from the counter's commit, dropped:  {_shown(found.dropped)}",
        f"                           streamed: {_shown(found.streamed)}",
        f"                           delayed:  {_shown(found.delayed)}",
        f"{outcome.queued:,} queued, {outcome.messages:,} messages for them, {outcome.resent:,} sent again by the sweep",
        f"{outcome.quarantined:,} messages quarantined; the log was {'' if outcome.read else 'not '}read to its end",
        f"the counter was {outcome.behind_seconds:.1f} s behind its timetable at most",
    ]
    return "\n".join([*lines, *(f"FAILED: {failure}" for failure in outcome.failures)])


def _shown(latency: Latency) -> str:
    return f"{latency.count:>7,} orders, p50 {latency.p50:,.0f} ms, p99 {latency.p99:,.0f} ms, longest {latency.longest:,.0f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.endurance.lossy", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--rate", type=float, help=f"orders a second (half of what the machine holds, at most {RATE_MAX:g})")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other orders and fates (%(default)s)")
    parser.add_argument("--delay-seconds-max", type=float, default=60.0, help="how late a message may come (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    folder = CHECKOUT / ".run" / f"lossy-{os.getpid()}"
    rate = Rate(options.rate) if options.rate else trial_rate(folder, options.seed)
    run = Run(options.orders, rate.places, options.seed, options.delay_seconds_max)
    console = Console(file=sys.stderr)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = [progress.add_task(name, total=options.orders) for name in ("committed", "accepted")]

        def show(*counts: int) -> None:
            for bar, count in zip(bars, counts, strict=True):
                progress.update(bar, completed=count)

        outcome = run.measure(folder, show)
    outcome.holds = rate.holds
    text = json.dumps({**asdict(outcome), "failures": outcome.failures}) if options.json else report(outcome)
    Console(soft_wrap=True, highlight=False).print(text, markup=False)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
