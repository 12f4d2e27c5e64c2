#!/usr/bin/env python
"""Django's entry for every command of the service: `manage.py help` lists them."""

import os
import sys

from django.core.management import execute_from_command_line


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "acceptance_site.settings")
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
