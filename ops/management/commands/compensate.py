"""`manage.py compensate`: a gap pass by hand."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from base import logs
from base.db import in_one_line
from ops.management.arguments import milliseconds, moment, whole
from ops.wiring import run_gap_pass
from orders.backfill.gap_pass import GapResult
from orders.intake.first_start import NotStarted
from orders.models import Watermark

EXIT_FAILED = 1
EXIT_NOT_DONE = 2
WAIT_SECONDS_MAX = 30.0
EPILOG = f"""examples:
  manage.py compensate
  manage.py compensate --shard 2 --since 2026-01-02T03:00

Asks the counter for its orders and takes in what is missing, as the periodic pass does. --since reads again from that time on (the counter's
clock); the shards' positions never move back by it, and a time after a shard's position changes nothing.

exit code: 0 every shard was read; {EXIT_FAILED} a shard couldn't be read, or a row was refused; {EXIT_NOT_DONE} not done"""


class Command(BaseCommand):
    help = "Fetches from the counter what the binlog didn't bring."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--shard", type=whole, metavar="S", help="one shard; all without it")
        parser.add_argument("--since", type=moment, metavar="T", help="read again from then on (ISO 8601, UTC without an offset)")
        parser.add_argument("--json", action="store_true", help="print what was found as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        since = options["since"]
        try:
            result = _run(options["shard"], None if since is None else milliseconds(since))
            shards = list(Watermark.objects.order_by("shard").values("shard", "newest_ms", "scanned_through_ms", "found_by_gap"))
        except NotStarted as error:
            raise CommandError(str(error), returncode=EXIT_NOT_DONE) from error
        except DatabaseError as error:
            raise CommandError(f"database unavailable: {in_one_line(error)}; repeating is harmless", returncode=EXIT_NOT_DONE) from error
        self._print(result, shards, as_json=options["json"])
        if result.failed or result.ingested.refused or result.ingested.quarantined:
            sys.exit(EXIT_FAILED)

    def _print(self, result: GapResult, shards: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
        taken = {name: count for name, count in asdict(result.ingested).items() if isinstance(count, int)}
        if as_json:
            self.stdout.write(json.dumps({"rows": result.rows, **taken, "failed": result.failed, "shards": list(shards)}, indent=2))
            return
        self.stdout.write(f"{result.rows:,} rows read: {', '.join(f'{count:,} {name}' for name, count in taken.items())}")
        for shard, error in result.failed.items():
            self.stderr.write(f"not read: {shard if shard == 'list' else f'shard {shard}'}: {error}")


def _run(shard: int | None, since_ms: int | None) -> GapResult:
    """Runs the pass as soon as none like it is in progress. Raises CommandError when that takes too
    long.
    """
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while (result := run_gap_pass(shard, since_ms)) is None:
        if time.monotonic() > deadline:
            raise CommandError("another pass is still in progress, and does the same: try again later", returncode=EXIT_NOT_DONE)
        time.sleep(0.2)
    return result
