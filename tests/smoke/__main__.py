"""Runs every command that README, docs and `make help` name, each on a small size: `python -m
tests.smoke` (make smoke).

The commands of manage.py run on a service of their own, the others on servers of theirs, all below
`.run/smoke`. Deadlines are meant on two quiet cores and scaled by what a calibration says of this
machine. A command that needs what isn't here (Java) is skipped, and the reason is printed.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import Slowness, slowness
from stack.rundir import default_folder, tail
from tests.smoke.judging import CheckError, SkippedError, raise_if_skipped
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

exit code: 0 every command worked or was skipped for a reason, 1 one didn't, 2 another run is in the way or a name is unknown"""


@dataclass(frozen=True)
class Result:
    """What came of a check. `result`: passed, failed or skipped; `why`: one line."""

    name: str
    result: str
    seconds: float
    why: str = ""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.smoke", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this check, and what it stands on; may be repeated")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME", help="all but this one; may be repeated")
    parser.add_argument("--list", action="store_true", help="print the names of the checks and what each covers")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    return parser.parse_args()


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
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        try:
            with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
                bar = progress.add_task("smoke", total=len(wanted))
                for check in wanted:
                    progress.update(bar, description=check.name)
                    self._add(self._result(check))
                    progress.advance(bar)
        finally:
            take_down(self._folder)
            self._runner.end_all()

    def _add(self, result: Result) -> None:
        self.results.append(result)
        mark = {"passed": "ok     ", "failed": "FAILED ", "skipped": "skipped"}[result.result]
        why = f": {result.why}" if result.why else ""
        self._console.print(f"{mark} {result.seconds:7.1f} s  {result.name}{why}", markup=False)
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


def summary(smoke: Smoke, machine: Slowness, seconds: float) -> str:
    """One line a failure, then the counts."""
    failed = [f"FAILED {result.name}: {result.why}" for result in smoke.results if result.result == "failed"]
    counts = ", ".join(f"{sum(result.result == kind for result in smoke.results)} {kind}" for kind in ("passed", "failed", "skipped"))
    on_reference = (
        f"about {seconds / machine.factor:.0f} s on the reference machine" if machine.factor > 1 else "on a machine as fast as the reference"
    )
    return "\n".join([*failed, f"{counts} in {seconds:.0f} s, {on_reference}; {machine}"])


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
    return smoke_in(default_folder({}) / "smoke", wanted, console, as_json=options.json)


def smoke_in(folder: Path, wanted: Sequence[Check], console: Console, *, as_json: bool) -> int:
    """Runs the checks in the folder; the exit code."""
    began = time.monotonic()
    try:
        with only_run_in(folder):
            adopt_orphans()
            make_empty(folder)
            machine = slowness()
            console.print(f"smoke: {len(wanted)} commands; {machine}; deadlines are scaled by it", markup=False)
            smoke = Smoke(folder, machine, console)
            smoke.run(wanted)
    except BusyError as error:
        console.print(str(error), markup=False)
        return 2
    except KeyboardInterrupt:
        console.print("stopped; nothing is left running")
        return 130
    failed = any(result.result == "failed" for result in smoke.results)
    seconds = time.monotonic() - began
    if as_json:
        results = [asdict(result) for result in smoke.results]
        report = {"passed": not failed, "seconds": round(seconds, 1), "slowness": round(machine.factor, 2), "checks": results}
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
    else:
        sys.stdout.write(summary(smoke, machine, seconds) + "\n")
    return 1 if failed else 0


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
