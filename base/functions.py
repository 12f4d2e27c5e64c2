"""Database functions that are code: an app's `sql/*.sql`, installed by `migrate` whenever their text is another than what is installed.

A migration would run them once and never again. Here every release brings its own, in one transaction, after the last migration; what stands in
the files must therefore be repeatable (`CREATE OR REPLACE FUNCTION`; types and tables are schema, and belong into migrations), and serve the
release before as well, whose processes still run: docs/architecture.md, "Two releases side by side", has the rules.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor

INSTALL_LOCK = 7_078_001  # of two `migrate` at once


def install_functions(app_config: AppConfig, using: str, verbosity: int = 1, **_: Any) -> None:
    """A receiver of `post_migrate`. Installs the app's functions unless they are there already, or migrations are missing that they may need."""
    files = sorted(Path(app_config.path, "sql").glob("*.sql"))
    scripts = [file.read_text() for file in files]
    version = sha256("\0".join(scripts).encode()).hexdigest()
    name = f"{app_config.label}_functions_version"
    connection = connections[using]
    if installed_version(connection, name) == version:
        return
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        return
    _install(connection, name, version, scripts)
    if verbosity:
        print(f"  Installed the functions of {app_config.label}: {version[:12]}")  # noqa: T201 - as migrate itself does


def installed_version(connection: BaseDatabaseWrapper, name: str) -> str:
    """What is installed: the hash of the files' text. It is kept as a function, so that neither a flush nor a dump loses it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regproc(%s)", [name])
        if cursor.fetchone() == (None,):
            return ""
        cursor.execute(f"SELECT {connection.ops.quote_name(name)}()")
        return str(cursor.fetchone()[0])


def _install(connection: BaseDatabaseWrapper, name: str, version: str, scripts: Sequence[str]) -> None:
    marker = f"CREATE OR REPLACE FUNCTION {connection.ops.quote_name(name)}() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '{version}' $$"
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [INSTALL_LOCK])
        for script in [*scripts, marker]:
            cursor.execute(script, None)
