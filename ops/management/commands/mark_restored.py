"""`manage.py mark_restored`: the database was restored from a backup; what it doesn't know of may have been done already."""

import argparse
import getpass
import json
import time
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from base import logs
from base.db import call
from clearing import store_recovery
from ops.arguments import whole

EXIT_NOT_DONE: Final = 2
WATCH_SECONDS: Final = 2.5  # a process that lost its connection comes back within
MARGIN_MINUTES: Final = 60
EPILOG = f"""example:
  manage.py mark_restored --reason "disk of db-1 lost, backup of 02:00"

Run it after PostgreSQL was restored from a backup and before any process of the service is started: docs/runbook.md has all the steps. From then on
no step of an unfinished order, nor of any order made before this moment that comes in again, is sent before the counterparty was asked whether
it was done. It may be repeated, and is to be, when it failed. It refuses to run while anybody else is connected to this database
under the service's account.

exit code: 0 marked; {EXIT_NOT_DONE} not done"""
_SESSIONS = (
    "SELECT DISTINCT application_name FROM pg_stat_activity"
    " WHERE datname = current_database() AND usename = current_user AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class Command(BaseCommand):
    help = "Tells the service that its database was restored from a backup: ask first, whatever comes next."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--reason", required=True, help="what happened; it is kept with the restore point")
        parser.add_argument(
            "--margin-minutes",
            type=whole,
            default=MARGIN_MINUTES,
            metavar="M",
            help="how far the counter's clock may be ahead of the database's: orders up to now and so much more are asked for first (%(default)s)",
        )
        parser.add_argument("--json", action="store_true", help="print what was marked as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        try:
            if others := _connected():
                fix = "stop every process of the service first (manage.py stack services down …, or your supervisor), then repeat"
                raise CommandError(f"others work on this database ({', '.join(sorted(others))}): {fix}", returncode=EXIT_NOT_DONE)
            through_ms, marked = _mark(options["margin_minutes"], options["reason"])
        except DatabaseError as error:
            raise CommandError(f"the database doesn't serve us: {str(error).strip()}", returncode=EXIT_NOT_DONE) from error
        if options["json"]:
            self.stdout.write(json.dumps({"marked": marked, "through_ms": through_ms}))
        else:
            self.stdout.write(f"{marked:,} unfinished orders of the backup are asked for first, and so is every order made before now that comes in")
            self.stdout.write("next: manage.py replay --from-time <the backup's time, and an hour before> --restored")


def _connected() -> set[str]:
    """Who else is connected, by PROCESS_ROLE; looked at twice. A frozen process is seen, and one that never took a claim."""
    found = {name for (name,) in call(_SESSIONS, [])}
    time.sleep(WATCH_SECONDS)
    return found | {name for (name,) in call(_SESSIONS, [])}


def _mark(margin_minutes: int, reason: str) -> tuple[int, int]:
    now_ms: int = call("SELECT clearing_ms(service_now())", [])[0][0]
    through_ms = now_ms + margin_minutes * 60_000
    return through_ms, store_recovery.mark_restored(through_ms, reason=reason, actor=f"{getpass.getuser()} (mark_restored)")
