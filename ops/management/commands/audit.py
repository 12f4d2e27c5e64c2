"""`manage.py audit`: counter, database and the sandbox's ledger, held against each other."""

import argparse
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from base import logs
from ops.audit.run import run_audit
from ops.audit.sandbox import SandboxError
from ops.audit.text import audit_lines

EXIT_FAILED = 1
EXIT_UNREADABLE = 2
EPILOG = f"""example:
  manage.py audit --wait 60

exit code: 0 nothing is missing, doubled or out of order and rule 12 holds for every cleared order (with --wait: and all are cleared);
           {EXIT_FAILED} something of that isn't so; {EXIT_UNREADABLE} the sandbox or the database couldn't be read"""


class Command(BaseCommand):
    help = "Compares the counter's orders, our database and the sandbox's ledger, order by order."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--json", action="store_true", help="print the report as JSON")
        parser.add_argument(
            "--wait", type=float, default=0.0, metavar="SECONDS", help="first wait until all placed orders are cleared, at most so long"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        waits = options["wait"] > 0
        try:
            report = run_audit(wait_seconds=options["wait"], on_wait=self._show_waiting)
        except SandboxError as error:
            raise CommandError(str(error), returncode=EXIT_UNREADABLE) from error
        except DatabaseError as error:
            raise CommandError(f"the database couldn't be read: {error}".strip(), returncode=EXIT_UNREADABLE) from error
        if options["json"]:
            self.stdout.write(json.dumps(report.as_json(), indent=2))
        else:
            self.stdout.write("\n".join(audit_lines(report, must_clear=waits)))
        if not report.passed or (waits and not report.all_cleared):
            sys.exit(EXIT_FAILED)

    def _show_waiting(self, cleared: int, placed: int) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\rwaiting: {cleared:,} of {placed:,} are cleared ", ending="\n" if cleared >= placed else "")
