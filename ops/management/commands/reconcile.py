"""`manage.py reconcile`: our orders against the counter's two tables, by hand."""

import argparse
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error as DatabaseError
from django.forms.models import model_to_dict

from base import logs
from base.db import in_one_line
from ops.wiring import run_reconcile
from orders.backfill.counter_api import InterfaceFailed
from orders.intake.first_start import NotStarted
from orders.models import ReconcileRun

EXIT_DIFFERENT = 1
EXIT_NOT_DONE = 2
EPILOG = f"""example:
  manage.py reconcile --hours 48

Counts each shard's orders by minute, here, in the counter's sync-order table and in its order table; where they differ, compares the ids and
fetches what is missing here. Each run leaves a row for each shard in the admin (Reconcile runs).

exit code: 0 we hold every order of both tables (now), and no other; {EXIT_DIFFERENT} one is still missing here, or unknown there, or a shard
           couldn't be compared; {EXIT_NOT_DONE} not done"""


class Command(BaseCommand):
    help = "Compares the orders of the last hours with the counter's tables, and fetches what is missing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--hours", type=_hours, default=24.0, help="how far back (%(default)s)")
        parser.add_argument("--json", action="store_true", help="print what was found as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        try:
            runs = run_reconcile(options["hours"])
        except NotStarted as error:
            raise CommandError(str(error), returncode=EXIT_NOT_DONE) from error
        except InterfaceFailed as error:
            raise CommandError(f"the counter doesn't answer: {error}", returncode=EXIT_NOT_DONE) from error
        except DatabaseError as error:
            raise CommandError(f"database unavailable: {in_one_line(error)}; repeating is harmless", returncode=EXIT_NOT_DONE) from error
        if runs is None:
            raise CommandError("another reconcile is still in progress: look at its result in the admin", returncode=EXIT_NOT_DONE)
        if options["json"]:
            self.stdout.write(json.dumps({"shards": [model_to_dict(run) for run in runs]}, indent=2, cls=DjangoJSONEncoder))
        else:
            for run in runs:
                self._print(run)
        if any(run.unresolved or run.unknown or run.error for run in runs):
            sys.exit(EXIT_DIFFERENT)

    def _print(self, run: ReconcileRun) -> None:
        counts = f"{run.ours:,} here, {run.sync_table:,} sync orders, {run.order_table:,} orders at the counter"
        found = f"{run.missing:,} missing, {run.fetched:,} of them fetched; {run.no_sync_row:,} without a sync order, {run.unknown:,} unknown there"
        self.stdout.write(f"shard {run.shard}: {counts}; {found}")
        for kind, order_ids in run.order_ids.items():
            self.stdout.write(f"  {kind}: {', '.join(order_ids)}")
        if run.error:
            self.stderr.write(f"  not compared, or not wholly: {run.error}")


def _hours(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 24 * 366:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of hours above 0, at most a year's")
    return value
