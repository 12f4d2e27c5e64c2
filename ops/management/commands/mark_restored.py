"""`manage.py mark_restored`: the database was restored from a backup; what it doesn't know of may
have been done already.
"""

import argparse
import getpass
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from base import logs
from base.db import call, in_one_line
from clearing.store import recovery
from ops.management.arguments import whole
from ops.recovery.voided import Unreadable, VoidReport, hold_all, read_list

EXIT_NOT_DONE: Final = 2
WATCH_SECONDS: Final = 2.5  # a process that lost its connection comes back within
MARGIN_MINUTES: Final = 60
EPILOG = f"""examples:
  manage.py mark_restored --reason "disk of db-1 lost, backup of 02:00" --voided voided.txt
  manage.py mark_restored --voided more.txt

Run it after PostgreSQL was restored from a backup and before any process of the service is started: docs/runbook.md has all the steps. From then on
no step of an unfinished order, nor of any order made before this moment that comes in again, is sent before the counterparty was asked whether
it was done. It may be repeated, and is to be, when it failed. It refuses to run while anybody else is connected to this database
under the service's account.

--voided names the orders that people voided since the backup, one order id a line (# begins a comment; - reads stdin): docs/runbook.md says where
to find them. Each is held before any step, now or when it comes in; the database has forgotten its void, and the bookings that were made by hand
for it. Without --reason it only adds orders to that list, at any time, also while the service runs. The same list again changes nothing.

exit code: 0 marked; {EXIT_NOT_DONE} not done"""
_SESSIONS = (
    "SELECT DISTINCT application_name FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class Command(BaseCommand):
    help = (
        "Tells the service that its database was restored from a backup: from then on each step starts with a status query (reconcile before resend)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--reason", help="what happened; it is kept with the restore point. May be left out with --voided, after the first run")
        parser.add_argument("--voided", metavar="FILE", help="the ids of the orders that people voided since the backup, one a line; - is stdin")
        parser.add_argument(
            "--margin-minutes",
            type=whole,
            default=MARGIN_MINUTES,
            metavar="M",
            help="how far the counter's clock may be ahead of the database's: orders up to now and so much more are reconciled (%(default)s)",
        )
        parser.add_argument("--json", action="store_true", help="print what was marked as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        try:
            order_ids = _listed(options["voided"])
            marks = _check(options)
            through_ms, marked = _mark(options["margin_minutes"], options["reason"]) if marks else (None, 0)
            report = hold_all(order_ids, actor=_actor())
        except DatabaseError as error:
            fix = "repeat the command, which is harmless"
            raise CommandError(f"database unavailable: {in_one_line(error)}: {fix}", returncode=EXIT_NOT_DONE) from error
        if options["json"]:
            said = {"marked": marked, "through_ms": through_ms} if marks else {}
            self.stdout.write(json.dumps(said | {"voided": asdict(report)}))
            return
        if marks:
            self.stdout.write(
                f"{marked:,} unfinished orders of the backup are reconciled before anything is sent again,"
                " and so is every order made before now that comes in"
            )
        if options["voided"] is not None:
            self._print(report)
        if marks:
            self.stdout.write("next: manage.py replay --from-time <the backup's time, and an hour before> --restored")

    def _print(self, report: VoidReport) -> None:
        """Counts, and the ids of those that somebody has to look at."""
        self.stdout.write(
            f"voided before: {len(report.held):,} held, {len(report.awaited):,} held when they come, {len(report.voided):,} voided in the backup"
        )
        for order_id in report.awaited:
            self.stdout.write(f"  {order_id}: not here yet")
        for order_id in report.released:
            self.stdout.write(f"  {order_id}: two people released its hold since: left alone")
        for order_id in report.cleared:
            self.stdout.write(
                f"  {order_id}: cleared already, on top of what was booked by hand: its counterparties' people have to undo one of the two"
            )


def _listed(name: str | None) -> list[str]:
    """The order ids of the file that is named. Raises CommandError."""
    if name is None:
        return []
    try:
        lines = (sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")).splitlines()
        return read_list(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--voided {name} can't be read: {error}; nothing was changed", returncode=EXIT_NOT_DONE) from error
    except Unreadable as unreadable:
        raise CommandError(f"--voided {name}: {unreadable}", returncode=EXIT_NOT_DONE) from unreadable


def _check(options: dict[str, Any]) -> bool:
    """Whether a restore is said, or only orders are added to the list of an earlier one. Raises
    CommandError where neither can be.
    """
    wrong = ""
    if options["reason"] is None:
        if options["voided"] is None:
            wrong = "say what happened: --reason; or name further voided orders: --voided"
        elif not recovery.was_ever_restored():
            wrong = "no restore was said yet: give --reason as well"
    elif others := _connected():
        fix = "stop every process of the service first (manage.py stack services down …, or your supervisor), then repeat"
        wrong = f"others work on this database ({', '.join(sorted(others))}): {fix}"
    if wrong:
        raise CommandError(wrong, returncode=EXIT_NOT_DONE)
    return options["reason"] is not None


def _actor() -> str:
    return f"{getpass.getuser()} (mark_restored)"


def _connected() -> set[str]:
    """Who else is connected, by PROCESS_ROLE; looked at twice. A frozen process is seen, and one
    that never took a claim.
    """
    found = {name for (name,) in call(_SESSIONS, [])}
    time.sleep(WATCH_SECONDS)
    return found | {name for (name,) in call(_SESSIONS, [])}


def _mark(margin_minutes: int, reason: str) -> tuple[int, int]:
    now_ms: int = call("SELECT clearing_ms(service_now())", [])[0][0]
    through_ms = now_ms + margin_minutes * 60_000
    return through_ms, recovery.mark_restored(through_ms, reason=reason, actor=_actor())
