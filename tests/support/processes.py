"""Real processes that work on the test's own database."""

import os

from django.db import connection


def environment_here(**more: str) -> dict[str, str]:
    """The environment of a process that works where the test does."""
    database = connection.settings_dict
    password = f":{database['PASSWORD']}" if database["PASSWORD"] else ""
    url = f"postgresql://{database['USER']}{password}@{database['HOST'] or '127.0.0.1'}:{database['PORT']}/{database['NAME']}"
    return {**os.environ, "DATABASE_URL": url, **more}
