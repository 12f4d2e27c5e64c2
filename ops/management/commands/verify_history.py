"""`manage.py verify_history`: whether history is as it was sealed."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from base import logs
from base.seal_key import name_of, private_key, public_key
from ops.seals.report import as_json, lines
from ops.seals.verify import verify

EXIT_TAMPERED, EXIT_UNREADABLE, EXIT_SHORTER = 1, 2, 3
EPILOG = f"""example:
  manage.py verify_history --public-key seal.pub.pem --root 1440:5b0c…64 characters

The root is what the webhook was told last (history_sealed, "root"). Without one, nobody can tell a chain that was cut off at its end.

exit code: 0 every sealed row is as it was sealed (rows newer than the newest seal aren't covered yet, and are counted);
           {EXIT_TAMPERED} rows or seals were changed, removed or put there; {EXIT_UNREADABLE} the database or a key couldn't be read;
           {EXIT_SHORTER} the chain ends before the root, or there is none: restored from a backup, or cut off"""


def root(text: str) -> tuple[int, str]:
    """NUMBER:ROOT, as it was told."""
    if not re.fullmatch(r"[1-9][0-9]{0,17}:[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} isn't a root like 1440:5b0c… with 64 characters behind the colon")
    number, _, value = text.partition(":")
    return int(number), value


class Command(BaseCommand):
    help = "Holds history against its seals: attempts, status changes, interventions, orders, the admin's log."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("--json", action="store_true", help="print the report as JSON")
        parser.add_argument("--root", type=root, metavar="NUMBER:ROOT", help="the newest root that somebody was told of outside")
        parser.add_argument(
            "--public-key",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help="a key that seals may be signed with, in PEM; repeated for former ones (default: that of SEAL_KEY, if it is set)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        keys = self._keys(options["public_key"])
        try:
            report = verify(keys, root=options["root"], progress=self._show)
        except DatabaseError as error:
            raise CommandError(f"the database couldn't be read: {error}".strip(), returncode=EXIT_UNREADABLE) from error
        if options["json"]:
            self.stdout.write(json.dumps(as_json(report, signed=bool(keys)), indent=2))
        else:
            self.stdout.write("\n".join(lines(report, signed=bool(keys))))
        if report.tampered:
            sys.exit(EXIT_TAMPERED)
        if report.is_shorter:
            sys.exit(EXIT_SHORTER)

    def _keys(self, files: list[Path]) -> dict[str, Ed25519PublicKey]:
        found = [private_key(settings.SEAL_KEY).public_key()] if settings.SEAL_KEY else []
        for file in files:
            try:
                found.append(public_key(file.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise CommandError(f"{file} can't be read as an Ed25519 key in PEM: {error}", returncode=EXIT_UNREADABLE) from error
        return {name_of(key): key for key in found}

    def _show(self, done: int, newest: int) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\rseal {done:,} of {newest:,} ", ending="\n" if done >= newest else "")
