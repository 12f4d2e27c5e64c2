"""Runs every command that README, docs and `make help` name, each on a small size: `python -m
tests.smoke` (make smoke).

The commands of manage.py run on a service of their own, the others on servers of theirs, in two
lanes beside each other (`.run/smoke-1`, `.run/smoke-2`). Deadlines are meant on two quiet cores and
scaled by what a calibration says of this machine. A command that needs what isn't here (Java) is
skipped, and the reason is printed.
"""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import REFERENCE_SECONDS, Slowness, slowness
from stack.rundir import default_folder, tail
from tests.smoke.judging import CheckError, SkippedError, raise_if_skipped
from tests.smoke.lanes import LANES, Lane, partition, running
from tests.smoke.results import Result, as_json, summary
from tests.smoke.running import Runner, adopt_orphans
from tests.smoke.table import SERVICE, Check, checks
from tests.support.servers import BusyError, only_run_in

DEADLINE_FACTOR: Final = 4.0
DEADLINE_SECONDS_MIN: Final = 60.0
TAIL_LINES: Final = 12
DOWN_SECONDS_MAX: Final = 300.0
EPILOG: Final = """examples:
  python -m tests.smoke
  python -m tests.smoke --only rolling --only audit
  python -m tests.smoke --skip chaos --skip simulate --json
  python -m tests.smoke --only "benchmarks pages,make demo"

exit code: 0 every command worked or was skipped for a reason, 1 one didn't, 2 another run is in the way or a name is unknown"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.smoke", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, text in (("--only", "only these checks, and what they need; separated by commas, may be repeated"), ("--skip", "all but these")):
        parser.add_argument(option, action="extend", type=names, default=[], metavar="NAMES", help=text)
    parser.add_argument("--lanes", type=int, default=LANES, choices=range(1, 9), metavar="COUNT", help="lanes beside each other (%(default)s)")
    parser.add_argument("--list", action="store_true", help="print the names of the checks and what each covers")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--lane", type=Path, help=argparse.SUPPRESS)  # this process is a lane of another run, in the folder
    parser.add_argument("--slowness", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def names(text: str) -> list[str]:
    """Of a list that is separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def chosen(only: Sequence[str], skip: Sequence[str]) -> list[Check]:
    """The checks to run: with one that needs the service come those that start it and end it.
    Raises LookupError for a name that there isn't.
    """
    known = checks()
    if unknown := {*only, *skip} - {check.name for check in known}:
        raise LookupError(f"no check is called {', '.join(sorted(unknown))}: see --list")
    wanted = [check for check in known if (not only or check.name in only) and check.name not in skip]
    if any(check.on_service for check in wanted):
        ends = {SERVICE[0].name, SERVICE[-1].name}
        wanted = [check for check in known if check in wanted or check.name in ends]
    return wanted


class Smoke:
    """One run over the checks."""

    def __init__(self, folder: Path, machine: Slowness, console: Console) -> None:
        self._runner = Runner(folder / "output")
        self._folder, self._machine, self._console = folder, machine, console
        self.results: list[Result] = []

    def run(self, wanted: Sequence[Check]) -> None:
        """All of them, one after another; whatever happens, nothing is left running."""
        try:
            for check in wanted:
                self._add(self._result(check))
        finally:
            take_down(self._folder)
            self._runner.end_all()

    def _add(self, result: Result) -> None:
        self.results.append(result)
        self._console.print(str(result), markup=False)
        if result.result == "failed":
            for path in self._runner.files(result.name):
                if path.exists() and path.stat().st_size:
                    self._console.print(f"--- the end of {path}\n{tail(path, TAIL_LINES)}\n---", markup=False)

    def _result(self, check: Check) -> Result:
        if reason := check.needs():
            return Result(check.name, "skipped", 0.0, reason)
        began = time.monotonic()
        try:
            self._check(check)
        except SkippedError as error:
            return Result(check.name, "skipped", round(time.monotonic() - began, 1), str(error))
        except CheckError as error:
            return Result(check.name, "failed", round(time.monotonic() - began, 1), str(error))
        return Result(check.name, "passed", round(time.monotonic() - began, 1))

    def _check(self, check: Check) -> None:
        command = [word.format(folder=self._folder) if "{folder}" in word else word for word in check.command]
        seconds_max = self._machine.scaled(max(DEADLINE_SECONDS_MIN, DEADLINE_FACTOR * check.seconds))
        ended = self._runner.run(check.name, command, check.variables, seconds_max, check.until)
        if check.stays:
            self._runner.keep()
        left = self._runner.left_running()
        names = sorted({process.name() for process in left if process.is_running()})
        self._runner.end(left)
        raise_if_skipped(ended)
        check.judge(ended)
        if names:
            raise CheckError(f"left running: {', '.join(names)}")


def main() -> int:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that started us in the background left SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        wanted = chosen(options.only, options.skip)
    except LookupError as error:
        console.print(error.args[0], markup=False)
        return 2
    if options.list:
        sys.stdout.write("".join(f"{check.name:<28} {', '.join(check.covers)}\n" for check in wanted))
        return 0
    try:
        if options.lane is not None:
            return one_lane(options.lane, wanted, console, options.slowness)
        return all_lanes(wanted, console, options)
    except BusyError as error:
        console.print(str(error), markup=False)
        return 2
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130


def one_lane(folder: Path, wanted: Sequence[Check], console: Console, factor: float) -> int:
    """Runs the checks in the folder, and prints the results as JSON; the exit code."""
    with only_run_in(folder):
        adopt_orphans()
        make_empty(folder)
        machine, began = Slowness(factor, factor * REFERENCE_SECONDS), time.monotonic()
        smoke = Smoke(folder, machine, console)
        try:
            smoke.run(wanted)
        finally:
            sys.stdout.write(as_json(smoke.results, machine, time.monotonic() - began) + "\n")
    return int(any(result.result == "failed" for result in smoke.results))


def all_lanes(wanted: Sequence[Check], console: Console, options: argparse.Namespace) -> int:
    """Runs the checks in lanes, and prints what came of them; the exit code."""
    began, machine = time.monotonic(), slowness()
    console.print(f"smoke: {len(wanted)} commands; {machine}; deadlines are scaled by it", markup=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with only_run_in(default_folder({}) / "smoke"), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("smoke", total=len(wanted))

        def say(line: str) -> None:
            console.print(line, markup=False)
            if line.startswith(("ok ", "FAILED ", "skipped ")):
                progress.advance(bar)

        parts = partition(wanted, options.lanes)
        lanes = [Lane(default_folder({}) / f"smoke-{number}", part, say) for number, part in enumerate(parts, start=1)]
        with running(lanes, machine.factor):
            for lane in lanes:
                lane.wait()
    order = {check.name: number for number, check in enumerate(wanted)}
    results = sorted((result for lane in lanes for result in lane.results), key=lambda result: order.get(result.name, -1))
    report = as_json if options.json else summary
    sys.stdout.write(report(results, machine, time.monotonic() - began) + "\n")
    return int(any(result.result == "failed" for result in results))


def take_down(folder: Path) -> None:
    """Ends what the checks left up, where one was interrupted or failed."""
    if any(folder.rglob("stack.env")):
        Runner(folder / "output").run("take down", ["make", "down"], {}, DOWN_SECONDS_MAX)


def make_empty(folder: Path) -> None:
    """Nothing of an earlier run stays: neither its servers, if it was killed, nor its data."""
    take_down(folder)
    for entry in folder.iterdir():
        if entry.name != "pytest.lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


if __name__ == "__main__":
    sys.exit(main())
