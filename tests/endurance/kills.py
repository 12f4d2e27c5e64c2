"""The consumer killed again and again, at random points, while orders are placed: `python -m
tests.endurance.kills` (make kill-consumer).

The whole service runs, with the sandbox in the counterparties' place; the audit judges. The gap
pass and reconcile rest, so that nothing brings what the consumer would have lost.
"""

import argparse
import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import psycopg2
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.machine import TRIAL_IN_ALL, Rate, slowness
from stack.launcher import Stack
from stack.rundir import CHECKOUT
from stack.services import Services
from tests.support.service import LiveService, live_service
from tests.support.waiting import wait_until

NEVER_SECONDS: Final = "43200"
RATE_MAX: Final = 80.0  # orders a second, unless told otherwise
PLACING_SECONDS_MORE: Final = 60
USERS: Final = 400
AUDIT_WAIT_SECONDS: Final = 420  # for what piled up while the consumer was away
AUDIT_SECONDS: Final = 120  # for the reading itself
SOURCES_SQL: Final = "SELECT source, count(*) FROM orders_syncorder GROUP BY source"
EPILOG: Final = """example:
  python -m tests.endurance.kills --orders 20000 --kills 50 --seed 1 --json

exit code: 0 the audit found nothing, and the consumer alone brought every order; 1 otherwise"""


@dataclass
class Outcome:
    """The result of a run. `known`: rows that came once more after a kill."""

    orders: int
    rate: float
    seed: int
    holds: float | None = None  # orders a second that the machine cleared in the trial
    trial: int = 0  # orders of the trial, placed before the others
    kills: int = 0
    seconds: float = 0.0
    known: int = 0
    sources: dict[str, int] = field(default_factory=dict)
    audit_exit_code: int = -1
    audit: dict[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> list[str]:
        """The conditions that don't hold."""
        wrong = [] if self.audit_exit_code == 0 else [f"the audit ended with {self.audit_exit_code}"]
        orders = self.trial + self.orders
        if self.audit.get("placed") != orders:
            wrong.append(f"{self.audit.get('placed')} of {orders} orders were placed")
        if self.sources != {"kafka": orders}:
            wrong.append(f"the orders came by {self.sources}")
        return wrong


@dataclass(frozen=True)
class Run:
    """So many orders, and so many kills while they are placed. `rate`: orders a second; None takes
    a share of what the machine holds. `durable`: PostgreSQL waits for its disk.
    """

    orders: int
    kills: int
    rate: float | None
    seed: int
    durable: bool = True

    def measure(self, folder: Path, on_progress: Callable[[int], None] = lambda _kills: None) -> Outcome:
        """Brings everything up, places and kills, and has the audit look."""
        settings = {"GAP_PASS_SECONDS": NEVER_SECONDS, "RECONCILE_SECONDS": NEVER_SECONDS}
        with live_service(folder, durable=self.durable, **settings) as service:
            rate = Rate(self.rate) if self.rate else Rate.of(service.held(), RATE_MAX)
            outcome = Outcome(self.orders, rate.places, self.seed, rate.holds, TRIAL_IN_ALL if rate.holds else 0)
            started = time.monotonic()
            seconds = slowness().scaled(2 * self.orders / rate.places + PLACING_SECONDS_MORE)
            with service.placing(self.orders, users=min(USERS, self.orders), rate=rate.places, seed=self.seed, seconds=seconds):
                self._kill(service, outcome, on_progress)
            audit_seconds = AUDIT_WAIT_SECONDS + slowness().scaled(AUDIT_SECONDS)
            ended = service.manage("audit", "--json", f"--wait={AUDIT_WAIT_SECONDS}", check=False, seconds=audit_seconds)
            outcome.seconds = round(time.monotonic() - started, 1)
            outcome.audit_exit_code = ended.returncode
            outcome.audit = _short(json.loads(ended.stdout)) if ended.stdout.startswith("{") else {}
            outcome.sources, outcome.known = _sources(service), _known(service)
        return outcome

    def _kill(self, service: LiveService, outcome: Outcome, on_progress: Callable[[int], None]) -> None:
        """Kills at points that the seed draws, spread over the placing; whether the consumer just
        starts, joins, reads, stores or commits.
        """
        random = Random(self.seed)
        ends_at = time.monotonic() + self.orders / outcome.rate
        services = Services(Stack(service.folder, dict(service.environment)))
        for remaining in range(self.kills, 0, -1):
            time.sleep(random.uniform(0, max(2 * (ends_at - time.monotonic()) / remaining, 1.0)))
            _kill_consumer(service, services)
            outcome.kills += 1
            on_progress(outcome.kills)


def _kill_consumer(service: LiveService, services: Services) -> None:
    """Kills it, and has its successor started at once: the supervisor alone would pause longer each
    time.
    """
    killed = service.pid("consumer")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: service.pid_or_none("consumer") != killed)  # the supervisor has noticed
    wait_until(lambda: _state(services) != "running" or service.pid_or_none("consumer") not in {None, killed})
    if _state(services) == "waiting":
        services.up(["consumer"])
    wait_until(lambda: service.pid_or_none("consumer") not in {None, killed})


def _state(services: Services) -> str:
    return next(line.state for line in services.status() if line.name == "consumer")


def _short(report: dict[str, Any]) -> dict[str, Any]:
    """The audit's figures, each list of orders by its length."""
    return {name: value["count"] if isinstance(value, dict) and "count" in value else value for name, value in report.items() if name != "orders"}


def _sources(service: LiveService) -> dict[str, int]:
    with closing(psycopg2.connect(service.variable("DATABASE_URL"))) as connection, connection.cursor() as cursor:
        cursor.execute(SOURCES_SQL)
        return dict(cursor.fetchall())


def _known(service: LiveService) -> int:
    """Over all lives of the consumer, from the metrics that they share."""
    with urllib.request.urlopen(f"http://127.0.0.1:{service.variable('WEB_PORT')}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    wanted = {"source": "kafka", "result": "known"}
    return int(sum(sample.value for family in families for sample in family.samples if wanted.items() <= sample.labels.items()))


def report(outcome: Outcome) -> str:
    """The report as text."""
    audit = ", ".join(f"{value} {name}" for name, value in outcome.audit.items() if isinstance(value, int) and not isinstance(value, bool))
    lines = [
        f"{Rate(outcome.rate, outcome.holds)}; {slowness()}",
        f"the consumer was killed {outcome.kills} times during {outcome.orders:,} orders at {outcome.rate:g}/s (seed {outcome.seed})",
        f"{outcome.known:,} rows came once more; accepted by source: {outcome.sources}",
        f"audit: exit code {outcome.audit_exit_code}: {audit}",
    ]
    return "\n".join([*lines, *(f"FAILED: {failure}" for failure in outcome.failures)])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.endurance.kills", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--orders", type=int, default=20_000, help="(%(default)s)")
    parser.add_argument("--kills", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--rate", type=float, help=f"orders a second (half of what the machine holds, at most {RATE_MAX:g})")
    parser.add_argument("--seed", type=int, default=1, help="another seed kills at other points (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    console = Console(file=sys.stderr)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("killed", total=options.kills)
        run = Run(options.orders, options.kills, options.rate, options.seed)
        outcome = run.measure(CHECKOUT / ".run" / f"kills-{os.getpid()}", lambda kills: progress.update(bar, completed=kills))
    text = json.dumps({**asdict(outcome), "failures": outcome.failures}) if options.json else report(outcome)
    Console(soft_wrap=True, highlight=False).print(text, markup=False)
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
