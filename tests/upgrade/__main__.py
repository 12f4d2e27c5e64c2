"""`python -m tests.upgrade --from COMMIT`: this release's upgrade from an older one, while orders
flow, and the way back (docs/upgrading.md).
"""

import argparse
import json
import signal
import sys
import time

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.upgrade.release import LAST_RELEASE, UpgradeError, resolve
from tests.upgrade.run import Report, run

EXIT_FAILED = 1
EXIT_NOT_DONE = 2
EPILOG = f"""example:
  python -m tests.upgrade --from {LAST_RELEASE} --orders 60

exit code: 0 all orders are cleared or voided and the audit passed; {EXIT_FAILED} it failed; {EXIT_NOT_DONE} there is no such commit"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="commit", default=LAST_RELEASE, metavar="COMMIT", help="the release to upgrade from (%(default)s)")
    parser.add_argument("--orders", type=int, default=200, help="orders that flow in each of the phases (%(default)s)")
    parser.add_argument("--rate", type=int, default=20, metavar="PER_SECOND", help="orders a second (%(default)s)")
    parser.add_argument("--short", action="store_true", help="without the way back to the old functions, and forward again")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args()
    console = Console(stderr=True)
    for number in (signal.SIGINT, signal.SIGTERM):  # whatever ends this process, the servers are stopped first
        signal.signal(number, signal.default_int_handler)
    try:
        from_commit, to_commit = resolve(options.commit), resolve("HEAD")
        report = _run(console, from_commit, to_commit, orders=options.orders, rate=options.rate, short=options.short)
    except UpgradeError as error:
        if error.seen:
            console.print(error.seen, markup=False, highlight=False)
        console.print(f"The upgrade failed: {error}", markup=False, highlight=False)  # last, where it is looked for
        return EXIT_NOT_DONE if "no such commit" in str(error) else EXIT_FAILED
    if options.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    else:
        _print(report)
    return 0 if report.passed else EXIT_FAILED


def _run(console: Console, from_commit: str, to_commit: str, *, orders: int, rate: int, short: bool) -> Report:
    began = time.monotonic()
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=None)

        def show(step: str) -> None:
            progress.update(task, description=step)
            if not console.is_terminal:
                console.print(f"{time.monotonic() - began:6.1f} s  {step}", markup=False, highlight=False)

        return run(from_commit, to_commit, orders=orders, rate=rate, short=short, show=show)


def _print(report: Report) -> None:
    states = ", ".join(f"{count} {state}" for state, count in sorted(report.states_before.items()))
    findings = {name: report.audit[name]["count"] for name in ("missing", "unplaced", "doubled", "out_of_order", "broken")}
    lines = [
        f"from {report.from_commit[:9]} to {report.to_commit[:9]} (and what isn't committed here)",
        f"migrated in {report.migrate_seconds} s, orders then: {states}",
        *(f"{phase['name']}: {phase['seconds']} s; successful calls: old {phase['old']}, new {phase['new']}" for phase in report.phases),
        f"quarantined by the old release and kept: {report.quarantined}",
        f"audit {'passed' if report.passed else 'FAILED'}: {report.audit['by_state']}, " + ", ".join(f"{n} {name}" for name, n in findings.items()),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
