"""`manage.py first_start`: says since when an empty database accepts orders."""

import argparse
import getpass
import json
import sys
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from base import logs
from ops.management.development import refuse_in_production
from ops.recovery import first_start
from ops.recovery.first_start import NotDone, Outcome
from orders.intake.mapping import milliseconds
from orders.stream.topic_reader import LogNotReadable

EXIT_NOT_DONE: Final = 2
EXIT_REQUESTED: Final = 3
NOW: Final = "now"
REQUEST, CONFIRM = "orders.add_firststart", "orders.change_firststart"
EPILOG = f"""examples:
  manage.py first_start --since 2026-01-31T00:00:00+00:00
  manage.py first_start --since now
  manage.py first_start --since 2026-01-31T00:00:00+00:00 --user anna     where another database was used before: the first person
  manage.py first_start --confirm 9f86d081884c7d65 --user ben             … and the second

A database that holds no order accepts none before this: an empty one can't know what was cleared before, and would pay it again. Orders created
before --since (with a zone, by the counter's clock) are left out for good; INTAKE_SINCE is the lower bound of what may be said. Those created
between --since and now are reconciled before any step is sent, and park as key_expired where a counterparty may have forgotten their keys.
Where the consumer group has committed offsets in Kafka, another database was used before this one: that takes two people with an account of the admin
each, and is told to ALARM_WEBHOOK_URL. docs/runbook.md, "PostgreSQL is gone and there is no backup", has all the steps.

--user asks for that account's password, or reads it as a line from stdin.

exit code: 0 the database accepts orders (also if it did before); {EXIT_NOT_DONE} not done;
           {EXIT_REQUESTED} requested, a second person has to confirm"""


class Command(BaseCommand):
    help = "Says since when an empty database accepts orders; before that it accepts none."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("--since", type=_moment, metavar="T", help="the first order's time: ISO 8601 with a zone, or now")
        what.add_argument("--confirm", metavar="CODE", help="confirm another person's request")
        what.add_argument("--sandbox", action="store_true", help="since INTAKE_SINCE, at counterparties on this machine; not in production")
        parser.add_argument("--user", metavar="NAME", help="your account of the admin")
        parser.add_argument("--json", action="store_true", help="print the outcome as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        try:
            outcome = _outcome(options)
        except (NotDone, LogNotReadable) as error:
            raise CommandError(str(error), returncode=EXIT_NOT_DONE) from error
        except DatabaseError as error:
            raise CommandError(f"database unavailable: {str(error).strip()}; repeating is harmless", returncode=EXIT_NOT_DONE) from error
        since = outcome.since.isoformat(timespec="milliseconds")
        if options["json"]:
            self.stdout.write(json.dumps({"state": outcome.state, "since": since, "code": outcome.code, "partitions": outcome.committed}))
        else:
            self.stdout.write(_text(outcome, since))
        if outcome.state == "requested":
            sys.exit(EXIT_REQUESTED)


def _outcome(options: dict[str, Any]) -> Outcome:
    """Raises NotDone, LogNotReadable."""
    if options["sandbox"]:
        return _start_for_sandbox()
    if options["confirm"]:
        if not options["user"]:
            raise NotDone("say who you are: --user and your account of the admin")
        return first_start.confirm(options["confirm"], _account(options["user"], CONFIRM))
    since_ms = first_start.checked_since(None if options["since"] == NOW else options["since"])
    user = _account(options["user"], REQUEST) if options["user"] else None
    return first_start.begin(since_ms, actor=f"{getpass.getuser()} (first_start)", user=user)


def _start_for_sandbox() -> Outcome:
    """Everything since INTAKE_SINCE, and nobody is asked: a sandbox's money isn't anybody's."""
    refuse_in_production("first_start --sandbox", "accepts whatever the counter has")
    if (already := first_start.as_it_is()) is not None:
        return already
    hosts = {urlsplit(url).hostname or "" for url in settings.COUNTERPARTY_URLS.values()}
    if far := sorted(host for host in hosts if not _is_local(host)):
        raise NotDone(f"a counterparty isn't on this machine ({', '.join(far)}): say since when yourself, with --since")
    return first_start.start(milliseconds(settings.INTAKE_SINCE), actor=f"{getpass.getuser()} (first_start --sandbox)", ahead_ms=0)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _account(name: str, permission: str) -> Any:
    password = getpass.getpass(f"Password of {name}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    return first_start.account(name, password, permission)


def _text(outcome: Outcome, since: str) -> str:
    if outcome.state == "requested":
        return (
            f"requested: orders since {since}. Another database was used before this one, so a second person confirms it, with their own account:\n"
            f"manage.py first_start --confirm {outcome.code} --user <name>"
        )
    return f"this database accepts orders created since {since}{' (as before)' if outcome.state == 'already' else ''}"


def _moment(text: str) -> datetime | str:
    if text == NOW:
        return NOW
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a time like 2026-01-31T00:00:00+00:00, nor {NOW!r}") from None
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} names no zone: {text}+00:00 is UTC") from None
    return found.astimezone(UTC)
