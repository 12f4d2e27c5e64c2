#!/usr/bin/env python
"""Django's entry for every command of the service: `manage.py help` lists them. A database that is
unavailable is one line on stderr and exit code 2, whichever command met it; `--traceback` shows
where.
"""

import os
import sys

from django.core.management import execute_from_command_line

EXIT_UNAVAILABLE = 2  # as of our own commands: not done, repeating is harmless


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "acceptance_site.settings")
    try:
        execute_from_command_line(sys.argv)
    except Exception as error:
        from base.db import in_one_line, is_unavailable  # noqa: PLC0415 - needs settings that are right

        if "--traceback" in sys.argv or not is_unavailable(error):
            raise
        answered = getattr(error.__cause__, "pgcode", None)  # it is there, and ended the statement: a lock that others hold, say
        fix = "repeat the command" if answered else "start it (manage.py stack up) or correct DATABASE_URL"
        sys.stderr.write(f"database unavailable: {in_one_line(error)}; {fix}\n")
        raise SystemExit(EXIT_UNAVAILABLE) from error


if __name__ == "__main__":
    main()
