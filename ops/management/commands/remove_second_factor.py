"""`manage.py remove_second_factor`: for who has lost the phone."""

import argparse
import json
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError

from base import logs
from base.desk.second_factor import remove

EXIT_UNKNOWN = 1
EXIT_NOT_DONE = 2
EPILOG = f"""example:
  manage.py remove_second_factor mia

At the next sign-in the user sets up a new one by the password alone: make sure who asks. An approver can't approve for APPROVER_SETTLED_HOURS
afterwards. It is told outside and stands in the record of the desk.

exit code: 0 it is removed, or there was none; {EXIT_UNKNOWN} no such user; {EXIT_NOT_DONE} not done"""


class Command(BaseCommand):
    help = "Removes the second factor of a user who has lost it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = EPILOG
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.add_argument("username", help="whose")
        parser.add_argument("--json", action="store_true", help="print what was done as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        logs.leave_stdout()
        try:
            user = get_user_model().objects.filter(username=options["username"]).first()
            if user is None:
                raise CommandError(f"there is no user {options['username']!r}", returncode=EXIT_UNKNOWN)
            count = remove(user)
        except DatabaseError as error:
            raise CommandError(f"database unavailable: {str(error).strip()}; repeating is harmless", returncode=EXIT_NOT_DONE) from error
        if options["json"]:
            self.stdout.write(json.dumps({"user": user.get_username(), "removed": count}))
        else:
            self.stdout.write(f"removed the second factor of {user.get_username()}" if count else f"{user.get_username()} had no second factor")
