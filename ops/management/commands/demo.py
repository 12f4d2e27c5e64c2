"""`manage.py demo`: orders placed, cleared before your eyes, and audited. `make demo` brings
everything up first.
"""

import argparse
import logging
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from rich.console import Console
from rich.live import Live
from rich.panel import Panel

from base import logs
from base.desk.roles import APPROVER, GUARDED, OPERATOR
from base.models import Grant
from base.readable import amount
from ops.audit.run import run_audit
from ops.audit.sandbox import SandboxError
from ops.audit.text import audit_lines
from ops.demo.placing import Placing, UnreachableError, Users
from ops.demo.progress import RecentSnapshots, line, live_table, look, newest_clearing
from ops.management.development import refuse_in_production

USERS = 50
APPROVES = "approver"  # the demo's second operator
RATE = 50.0
REFRESH_SECONDS = 0.5
LINE_SECONDS = 2.0  # without a terminal
SETTLE_SECONDS_MAX = 60.0  # after the last order was placed
EXIT_FAILED = 1
EXIT_UNREACHABLE = 2
EPILOG = f"""example:
  make demo              (which is: stack, migrations and services up, then manage.py demo)
  manage.py demo --once

exit code of --once: 0 all cleared and the audit passed, {EXIT_FAILED} not, {EXIT_UNREACHABLE} sandbox or database can't be reached"""


class Command(BaseCommand):
    help = "Places mixed orders at the sandbox, shows how they clear, audits them, and tells where the admin is. Development only."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--once", action="store_true", help="end with the audit instead of waiting for Ctrl-C")
        parser.add_argument("--count", type=int, default=500, help="how many orders (%(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_in_production("demo", "places orders and makes an admin user with a known name")
        logs.leave_stdout()
        logging.getLogger("base.alarms").setLevel(logging.ERROR)  # what changes are the demo's own accounts, on its own sandbox
        self.console = Console(highlight=False)
        try:
            passed = self._show(options["count"])
        except (UnreachableError, SandboxError) as error:
            raise CommandError(str(error), returncode=EXIT_UNREACHABLE) from error
        except DatabaseError as error:
            raise CommandError(f"the database can't be read: {error}".strip(), returncode=EXIT_UNREACHABLE) from error
        except KeyboardInterrupt:
            return
        if options["once"]:
            sys.exit(0 if passed else EXIT_FAILED)
        self._stay()

    def _show(self, count: int) -> bool:
        password = reset_admin()
        since = newest_clearing()
        users = Users(USERS, direction="mixed", asset="mixed", seed=None)
        placing = Placing(settings.COUNTERPARTY_URLS["counter"], users, count=count, rate=RATE)
        self._watch_until_cleared(placing, since, count)
        self._say("Auditing ...")
        report = run_audit(wait_seconds=SETTLE_SECONDS_MAX)
        self.console.print(Panel("\n".join(audit_lines(report, must_clear=True)), title="Audit", title_align="left", expand=False))
        for code, times in placing.tally.refusals.most_common():
            self._say(f"Not placed, {times:,} times: {code}")
        self._say(f"Slippage of all cleared orders: {amount(report.slippage_stored_usdt)} USDT (positive: the exchange gained)")
        self._say(f"Admin: http://127.0.0.1:{settings.WEB_PORT}/admin/   user: admin   password: {password}")
        self._say(f"A second operator, who approves what admin requests: user: {APPROVES}   password: {password}")
        return report.passed and report.all_cleared

    def _watch_until_cleared(self, placing: Placing, since: int, count: int) -> None:
        failures: list[BaseException] = []
        placer = threading.Thread(target=_place, args=(placing, failures), daemon=True)
        placer.start()
        recent, settle_by = RecentSnapshots(), float("inf")
        with self._screen(count) as show:
            while True:
                now = time.monotonic()
                recent.add(look(since, placed=placing.tally.placed, at=now))
                show(recent)
                if failures:
                    raise failures[0]
                if not placer.is_alive():
                    settle_by = min(settle_by, now + SETTLE_SECONDS_MAX)
                    if recent.looks[-1].cleared >= recent.looks[-1].placed or now >= settle_by:
                        return
                time.sleep(REFRESH_SECONDS)

    @contextmanager
    def _screen(self, count: int) -> Iterator[Any]:
        """What shows a look: a live table on a terminal, else a line now and then."""
        if self.console.is_terminal:
            with Live(console=self.console, refresh_per_second=4) as live:
                yield lambda recent: live.update(live_table(recent, count))
            return
        lines = _Lines(self.console, count)
        yield lines.show
        lines.end()

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def _stay(self) -> None:
        self._say("Everything stays up: place more with `manage.py place_orders`. Ctrl-C stops it.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


class _Lines:
    """A plain line now and then, and one at the end."""

    def __init__(self, console: Console, count: int) -> None:
        self._console, self._count = console, count
        self._shown_at = float("-inf")
        self._recent: RecentSnapshots | None = None

    def show(self, recent: RecentSnapshots) -> None:
        self._recent = recent
        if recent.looks[-1].at - self._shown_at >= LINE_SECONDS:
            self.end()
            self._shown_at = recent.looks[-1].at

    def end(self) -> None:
        if self._recent is not None:
            self._console.print(line(self._recent, self._count), soft_wrap=True)


def _place(placing: Placing, failures: list[BaseException]) -> None:
    try:
        placing.run()
    except UnreachableError as error:
        failures.append(error)


def reset_admin() -> str:
    """Makes the user `admin`, an operator and superuser, and one who approves, or gives them a new
    password; returns the password.
    """
    password = secrets.token_urlsafe(12)
    for name, role in (("admin", OPERATOR), (APPROVES, APPROVER)):
        user, _ = get_user_model().objects.get_or_create(username=name)
        user.is_staff = user.is_active = True
        user.is_superuser = name == "admin"
        user.set_password(password)
        user.save()
        user.groups.set(Group.objects.filter(name=role))
        if role in GUARDED and not Grant.objects.filter(user_id=user.pk, role=role, ended_at__isnull=True).exists():
            Grant.objects.create(user_id=user.pk, username=name, role=role, source=Grant.Source.HOST)
    return password
