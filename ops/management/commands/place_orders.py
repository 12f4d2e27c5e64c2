"""`manage.py place_orders`: users' orders at the sandbox's counter."""

import argparse
import json
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from base import logs
from ops.demo.placing import Placing, Tally, UnreachableError, Users
from ops.management.development import refuse_in_production

EXIT_REFUSED = 1
EXIT_UNREACHABLE = 2
DIRECTIONS = ("open", "close", "mixed")
ASSETS = ("BTC", "ETH", "mixed")
EPILOG = f"""example:
  manage.py place_orders --count 1000 --users 50 --rate 100 --seed 7

`mixed` closes contracts that were opened before, 4 orders of 10. `close` closes each user's oldest open contract.
A few orders of other kinds are strewn in; they don't count.

exit code: 0 all were placed; {EXIT_REFUSED} the counter refused some, or didn't answer; {EXIT_UNREACHABLE} no counter is there"""


class Command(BaseCommand):
    help = "Places orders at the sandbox's counter, as its users would, at an even rate. Development only."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--count", type=_positive_whole, default=100, help="how many exchange orders (%(default)s)")
        parser.add_argument("--users", type=_positive_whole, default=20, help="of how many users (%(default)s)")
        parser.add_argument("--rate", type=_positive, default=50.0, metavar="PER_SECOND", help="orders a second (%(default)s)")
        parser.add_argument("--direction", choices=DIRECTIONS, default="mixed", help="(%(default)s)")
        parser.add_argument("--asset", choices=ASSETS, default="mixed", help="(%(default)s)")
        parser.add_argument("--seed", type=int, help="draws the same orders again")
        parser.add_argument("--json", action="store_true", help="print what was placed as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        refuse_in_production("place_orders", "places users' orders at the counter")
        logs.leave_stdout()
        users = Users(options["users"], direction=options["direction"], asset=options["asset"], seed=options["seed"])
        placing = Placing(settings.COUNTERPARTY_URLS["counter"], users, count=options["count"], rate=options["rate"])
        try:
            seconds = self._run(placing, options["count"])
        except UnreachableError as error:
            raise CommandError(str(error), returncode=EXIT_UNREACHABLE) from error
        self._print(placing.tally, seconds, as_json=options["json"])
        if placing.tally.placed < options["count"]:
            sys.exit(EXIT_REFUSED)

    def _run(self, placing: Placing, count: int) -> float:
        columns = TextColumn("placing"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True), TimeRemainingColumn()
        console = Console(file=sys.stderr)
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("placing", total=count)
            return placing.run(lambda tally: progress.update(bar, completed=tally.placed))

    def _print(self, tally: Tally, seconds: float, *, as_json: bool) -> None:
        rate = tally.placed / seconds if seconds else 0.0
        if as_json:
            found = {"placed": tally.placed, "kinds": dict(tally.kinds), "refusals": dict(tally.refusals), "usdt": f"{tally.usdt:f}"}
            self.stdout.write(json.dumps({**found, "seconds": round(seconds, 3), "rate": round(rate, 1)}, indent=2))
            return
        kinds = f"{tally.kinds['OPEN']:,} OPEN, {tally.kinds['CLOSE']:,} CLOSE; besides {tally.misc:,} of other kinds"
        self.stdout.write(f"placed {tally.placed:,} orders in {seconds:.1f} s ({rate:.0f}/s): {kinds}; {tally.usdt:,.2f} USDT quoted")
        for code, times in tally.refusals.most_common():
            self.stderr.write(f"not placed, {times:,} times: {code}")


def _positive_whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a whole number from 1 on")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number above 0")
    return value
