"""`python -m tests.chaos`: a live service under hundreds of faults, then the audit. Prints one line
of JSON last.

Real processes and servers of the run's own, under `.run/chaos`: two workers, two worker-ops. While
orders flow, one fault after the other comes, from the seed: processes and servers are killed,
stopped, frozen and wiped, messages come again, and a share of the counterparties' answers is faulty
all the while. Recovery times run from a fault to the next call of each order that it hit.

exit code: 0 nothing was lost, doubled, reordered, stranded or parked wrongly; 1 something was; 2
the run couldn't be made; 130 Ctrl-C
"""

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import django
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import TRIAL_IN_ALL, Rate, slowness
from stack.rundir import default_folder
from tests.chaos import recovery
from tests.chaos.answers import FaultyAnswers
from tests.chaos.faults import Faults
from tests.chaos.plan import EXTRAS, Planned, plan
from tests.chaos.stage import Stage, stage
from tests.chaos.traffic import Traffic
from tests.chaos.verdict import Verdict, judge
from tests.support.servers import BusyError

EXAMPLE: Final = "example: python -m tests.chaos --orders 1000 --faults 60 --spacing 2.5 --seed 1"
USERS: Final = 100
REST_SECONDS: Final = 1.0  # from the end of a fault that lasted to the next one
PLACED_SECONDS_MAX: Final = 300
QUIET_SECONDS_MAX: Final = 100
SHOWN_MAX: Final = 20
UNFINISHED_SQL: Final = (
    "SELECT o.order_id, c.state, c.step, c.epoch, c.error_code, c.claimed_by, c.sends, c.queued_at::text, c.due_at::text FROM clearing_clearing c"
    " JOIN orders_syncorder o ON o.id = c.order_id WHERE c.state <> 'cleared' ORDER BY c.id LIMIT %s"
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--orders", type=int, default=5_000, help="orders to place (%(default)s)")
    parser.add_argument("--faults", type=int, default=300, help="faults of processes and servers; those of messages come besides (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of faults, orders and the sandbox's dice (%(default)s)")
    parser.add_argument("--spacing", type=float, default=8.0, metavar="SECONDS", help="from the beginning of a fault to the next one's (%(default)s)")
    parser.add_argument("--faulty-share", type=float, default=0.03, help="of the counterparties' answers (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the last line alone")
    return parser.parse_args()


class Run:
    """One run, from the first order to the verdict."""

    def __init__(self, options: argparse.Namespace, on: Stage, console: Console) -> None:
        self._options = options
        self._stage = on
        self._console = console
        self._plan = plan(options.seed, options.faults)
        sandbox = on.service.variable("COUNTER_URL")
        rate = Rate.of(on.service.held(), options.orders / self._seconds(options.spacing))
        self._spacing = max(options.spacing, options.orders / rate.places / len(self._plan))
        self._says = f"{rate}; {slowness()}"
        console.print(self._says + (f"; faults every {self._spacing:.1f} s" if self._spacing > options.spacing else ""))
        self._traffic = Traffic(sandbox, orders=options.orders, users=USERS, rate=rate.places, seed=options.seed)
        self._answers = FaultyAnswers(sandbox, options.faulty_share)
        self._faults = Faults(on)
        self._began = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Everything; the report."""
        self._answers.start()
        self._traffic.start()
        try:
            self._do_faults()
            self._await_placed()
            self._answers.stop()
            self._stage.services.up()
            self._stage.look_for_halted()
            audit = self._audit()
        finally:
            self._traffic.stop()
            self._faults.close()
        return self._report(audit)

    def _seconds(self, spacing: float) -> float:
        """How long the faults take."""
        return sum(max(spacing, planned.seconds + REST_SECONDS) for planned in self._plan)

    def _do_faults(self) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            faults, orders = progress.add_task("faults", total=len(self._plan)), progress.add_task("orders", total=self._options.orders)
            for number, planned in enumerate(self._plan):
                next_at = time.monotonic() + self._spacing
                self._do(number, planned)
                time.sleep(max(REST_SECONDS, next_at - time.monotonic()))
                progress.update(faults, completed=number + 1)
                progress.update(orders, completed=self._traffic.placed)

    def _do(self, number: int, planned: Planned) -> None:
        began = time.monotonic() - self._began
        hit = self._faults.do(planned)
        lasted = f" for {planned.seconds:.1f} s" if planned.seconds else ""
        line = f"{began:7.1f} s  {number + 1:>3}/{len(self._plan)}  {planned.kind.name}{lasted}: {hit} orders hit"
        self._console.print(f"{line}, {self._traffic.placed} placed")

    def _await_placed(self) -> None:
        deadline = time.monotonic() + slowness().scaled(PLACED_SECONDS_MAX)
        while not self._traffic.done and time.monotonic() < deadline:
            time.sleep(0.1)

    def _audit(self) -> dict[str, Any]:
        ended = self._stage.service.manage("audit", "--json", f"--wait={QUIET_SECONDS_MAX}", check=False)
        try:
            found: dict[str, Any] = json.loads(ended.stdout)
        except ValueError:
            raise RuntimeError(f"the audit ended with {ended.returncode}: {ended.stderr}") from None
        return found

    def _report(self, audit: dict[str, Any]) -> dict[str, Any]:
        faulty_answers = sum(self._answers.counts.values())
        told = faulty_answers if self._options.faulty_share else None
        verdict = judge(audit, self._stage.halted, orders=TRIAL_IN_ALL + self._options.orders, faulty_answers=told)
        if not verdict.passed:
            self._show_violations(verdict, audit)
        for line in recovery.slow(self._faults.affected):
            self._console.print(line, markup=False)
        kinds = Counter(planned.kind for planned in self._plan)
        return {
            "seed": self._options.seed,
            "machine": self._says,
            "orders": audit["placed"],
            "cleared": audit["cleared"],
            **verdict.as_json(),
            "faults": sum(count for kind, count in kinds.items() if kind not in EXTRAS),
            "faults_by_kind": dict(sorted((kind.name, count) for kind, count in kinds.items())),
            "faulty_answers": faulty_answers,
            "faulty_answers_by_kind": self._answers.counts,
            "recovery_ms": recovery.measure(self._faults.affected, self._faults.spans),
            "seconds": round(time.monotonic() - self._began, 1),
        }

    def _show_violations(self, verdict: Verdict, audit: dict[str, Any]) -> None:
        out = Console(stderr=True, soft_wrap=True, highlight=False)
        out.print(f"VIOLATIONS (seed {self._options.seed}): {verdict}", markup=False)
        out.print(json.dumps({name: audit[name] for name in ("missing", "unplaced", "doubled", "out_of_order", "broken", "by_state")}), markup=False)
        for row in recovery.query(UNFINISHED_SQL, [SHOWN_MAX]):
            out.print(str(row), markup=False)
        out.print(f"logs: {self._stage.service.folder / 'logs'}", markup=False)


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that started us in the background left SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    console = Console(stderr=True, quiet=options.json, soft_wrap=True, highlight=False)
    console.print(f"chaos: {options.orders} orders, {options.faults} faults, seed {options.seed}; bringing the service up")
    try:
        with stage(default_folder({}) / "chaos", options.seed) as on:
            prepare_django(on.service.folder, on.stack.environment())
            report = Run(options, on, console).run()
    except BusyError as error:
        console.print(str(error))
        return 2
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130
    sys.stdout.write(json.dumps(report) + "\n")
    return 0 if report["passed"] else 1


def prepare_django(folder: Path, variables: dict[str, str]) -> None:
    """So that we read the database and publish as one of the service's own processes."""
    os.environ.update({"RUN_DIR": str(folder), "LOG_LEVEL": "ERROR", "PROCESS_ROLE": "chaos", **variables})
    os.environ["DJANGO_SETTINGS_MODULE"] = "acceptance_site.settings"
    django.setup()


if __name__ == "__main__":
    sys.exit(main())
