"""`manage.py replay`: parts of the binlog's topic, or of the quarantine, once more through the
intake.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from base import logs
from base.db import in_one_line
from clearing.store import recovery
from ops.management.arguments import milliseconds, moment, whole
from ops.wiring import ingest_from_replay, ingest_from_restore
from orders.backfill.replay import Replay, replay_quarantined, waiting_in_quarantine
from orders.backfill.verdicts import Tally, Verdict
from orders.intake.faults import FAULT_FIX, IntakeFault
from orders.intake.first_start import NotStarted, current_rules
from orders.intake.ingest import Intake
from orders.models import Quarantined
from orders.stream.topic_reader import LogNotReadable, LogReader, Span, open_reader

EXIT_REFUSED = 1
EXIT_NOT_DONE = 2
EPILOG = f"""examples:
  manage.py replay --from-time 2026-01-02T03:00 --to-time 2026-01-02T04:00 --dry-run
  manage.py replay --partition 2 --from-offset 1200 --to-offset 1300
  manage.py replay --order-id O1767323045678200055
  manage.py replay --quarantined --reason refused:unknown_asset
  manage.py replay --from-time 2026-01-02T02:00 --restored

What is known changes nothing: a replay may be repeated, also while the consumer runs, whose group it doesn't join. --dry-run reads the same
messages and compares their orders with those in the database; it writes nothing, publishes nothing and quarantines nothing. What only
PostgreSQL itself would refuse counts as new there.

--restored, after the database was restored from a backup and `manage.py mark_restored` said so: what is new here may have been run before, and
the counterparties are asked what was done before any step is sent.

exit code: 0 all that was read is in, or none of our business; {EXIT_REFUSED} some was refused or tells otherwise of an accepted order (it lies
           in quarantine), or the order wasn't found; {EXIT_NOT_DONE} the arguments, the topic, or the database: not, or not wholly, done"""


@dataclass(frozen=True, slots=True)
class Done:
    """What was read: messages, their rows by verdict, and of each quarantined message whether it
    went in.
    """

    messages: int
    tally: Tally
    spans: list[Span]
    quarantined: list[tuple[Quarantined, Verdict, bool]]


class Command(BaseCommand):
    help = "Reads orders that were read before once more, and takes in what is missing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--topic", default=settings.KAFKA_TOPIC, help="(KAFKA_TOPIC: %(default)s)")
        parser.add_argument("--partition", type=whole, metavar="P", help="one partition; all without it")
        parser.add_argument("--from-offset", type=whole, metavar="N", help="the first message, in each partition that is read")
        parser.add_argument("--to-offset", type=whole, metavar="M", help="the last message; it is read too")
        parser.add_argument("--from-time", type=moment, metavar="T", help="messages written to the log since then (ISO 8601, UTC without an offset)")
        parser.add_argument("--to-time", type=moment, metavar="T", help="messages written before then (now)")
        parser.add_argument("--order-id", metavar="ID", help="whatever the whole log tells of this order")
        parser.add_argument("--quarantined", action="store_true", help="what lies in quarantine and wasn't replayed yet")
        parser.add_argument("--reason", help="with --quarantined: only of this reason")
        parser.add_argument("--restored", action="store_true", help="the database was restored: reconcile new orders before anything is sent again")
        parser.add_argument("--dry-run", action="store_true", help="compare only, write nothing")
        parser.add_argument("--json", action="store_true", help="print what was found as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        try:
            _check(options)
            done = self._replay_quarantined(options) if options["quarantined"] else self._replay_log(options)
        except LogNotReadable as error:
            raise CommandError(str(error), returncode=EXIT_NOT_DONE) from error
        except NotStarted as error:
            raise CommandError(str(error), returncode=EXIT_NOT_DONE) from error
        except IntakeFault as error:
            raise CommandError(f"an internal error keeps orders out: {error}: {FAULT_FIX}", returncode=EXIT_NOT_DONE) from error
        except DatabaseError as error:
            fix = "what was read so far is in; repeat the command, which is harmless"
            raise CommandError(f"database unavailable: {in_one_line(error)}: {fix}", returncode=EXIT_NOT_DONE) from error
        self._print(done, options)
        if done.tally.refused or done.tally.differs or (options["order_id"] and not done.tally.new + done.tally.known):
            sys.exit(EXIT_REFUSED)

    def _replay_log(self, options: dict[str, Any]) -> Done:
        replay = Replay(current_rules(), _intake(options), options["order_id"] or "")
        read = 0
        with open_reader(settings.KAFKA_BOOTSTRAP_SERVERS, options["topic"], options["partition"]) as reader:
            spans = _spans(reader, options)
            with self._progress() as progress:
                bar = progress.add_task("messages", total=sum(span.messages for span in spans))
                for messages in reader.read(spans, settings.INTAKE_BATCH_ROWS_MAX):
                    replay.run(messages)
                    read += len(messages)
                    progress.update(bar, completed=read)
        return Done(read, replay.tally, spans, [])

    def _replay_quarantined(self, options: dict[str, Any]) -> Done:
        intake = _intake(options)
        rules, tally, rows = current_rules(), Tally(), []
        with self._progress() as progress:
            bar = progress.add_task("quarantined", total=None)
            for row in waiting_in_quarantine(options["reason"] or ""):
                replayed = replay_quarantined(row, rules, intake)
                tally.add(replayed.verdict, 1)
                rows.append((row, replayed.verdict, replayed.went_in))
                row.message = None  # the list is for the report alone
                progress.update(bar, completed=len(rows))
        return Done(len(rows), tally, [], rows)

    def _progress(self) -> Progress:
        console = Console(file=sys.stderr)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        return Progress(*columns, console=console, disable=not console.is_terminal)

    def _print(self, done: Done, options: dict[str, Any]) -> None:
        if options["order_id"] and not any(asdict(done.tally).values()):
            self.stderr.write(
                f"no message tells of {options['order_id']}, or only as of an order that is filtered: try `manage.py compensate --since`"
            )
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(done, dry_run=options["dry_run"]), indent=2))
            return
        tally = done.tally
        found = f"{tally.known:,} known, {tally.filtered:,} filtered, {tally.refused:,} refused, {tally.differs:,} with other contents than ours"
        new = f"{tally.new:,} {'would be ' if options['dry_run'] else ''}new"
        what = "quarantined messages" if options["quarantined"] else "messages"
        self.stdout.write(f"{done.messages:,} {what} read: {new}, {found}" + (" (dry run: nothing was written)" if options["dry_run"] else ""))
        for (reason, verdict), count in sorted(Counter((row.reason, verdict) for row, verdict, _ in done.quarantined).items()):
            self.stdout.write(f"  {reason}: {count:,} {verdict}")


def _intake(options: dict[str, Any]) -> Intake | None:
    if options["dry_run"]:
        return None
    return ingest_from_restore if options["restored"] else ingest_from_replay


def _spans(reader: LogReader, options: dict[str, Any]) -> list[Span]:
    if options["from_offset"] is not None:
        return reader.by_offsets(options["from_offset"], options["to_offset"])
    if options["from_time"] is not None:
        return reader.by_times(milliseconds(options["from_time"]), milliseconds(options["to_time"] or datetime.now(UTC)))
    return reader.whole()


def _check(options: dict[str, Any]) -> None:
    """Raises CommandError unless exactly one part of the log, or the quarantine, is asked for."""
    asked = {
        "--from-offset … --to-offset": options["from_offset"] is not None or options["to_offset"] is not None,
        "--from-time": options["from_time"] is not None or options["to_time"] is not None,
        "--order-id": bool(options["order_id"]),
        "--quarantined": options["quarantined"],
    }
    wrong = ""
    if sum(asked.values()) != 1:
        wrong = f"say what to replay, one of: {', '.join(asked)}"
    elif (options["from_offset"] is None) != (options["to_offset"] is None):
        wrong = "--from-offset and --to-offset go together"
    elif options["to_time"] is not None and options["from_time"] is None:
        wrong = "--to-time needs --from-time"
    elif options["reason"] and not options["quarantined"]:
        wrong = "--reason goes with --quarantined"
    elif options["quarantined"] and options["partition"] is not None:
        wrong = "--partition is of the log; the quarantine is chosen from with --reason"
    elif options["restored"] and not recovery.restore_was_said():
        wrong = "--restored goes after `manage.py mark_restored`, on this database and within a day: what the backup itself holds is marked first"
    if wrong:
        raise CommandError(wrong, returncode=EXIT_NOT_DONE)


def _as_json(done: Done, *, dry_run: bool) -> dict[str, Any]:
    rows = [
        {"id": row.pk, "place": f"{row.topic}/{row.partition}@{row.offset}", "reason": row.reason, "order_id": row.order_id, "verdict": verdict}
        | {"went_in": went_in}
        for row, verdict, went_in in done.quarantined
    ]
    spans = [asdict(span) for span in done.spans]
    return {"dry_run": dry_run, "messages": done.messages, **asdict(done.tally), "spans": spans, "quarantined": rows}
