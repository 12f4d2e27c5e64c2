"""Database functions that are code: an app's `sql/*.sql`, and what its configuration generates
(`generated_functions`, run first), installed by `migrate` whenever their text differs from what is
installed.

A migration would run them once and never again. Here each release installs its own in one
transaction, after the last migration. So the files must be repeatable (`CREATE OR REPLACE
FUNCTION`, a trigger only where it is missing; types and tables are schema and belong in
migrations), and must serve the release before as well, whose processes still run:
`clearing/sql/90_release_before.sql` and docs/architecture.md, "Two releases side by side", have the
rules. An older release's `migrate` doesn't restore its functions: migrations that it hasn't got
tell it that a newer release is there.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.management import CommandError
from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

INSTALL_LOCK = 7_078_001  # of two `migrate` at once
OURS = ("base", "orders", "clearing", "ops")  # the apps whose migrations tell releases apart


def install_functions(app_config: AppConfig, using: str, verbosity: int = 1, **_: Any) -> None:
    """A receiver of `post_migrate`. Installs the app's functions, unless they are installed already
    or a migration that they may need is missing.

    Raises CommandError where a newer release has migrated the database, since that release's
    processes call its functions.
    """
    generated: Callable[[], list[str]] = getattr(app_config, "generated_functions", list)
    scripts = [*generated(), *(file.read_text() for file in sorted(Path(app_config.path, "sql").glob("*.sql")))]
    version = sha256("\0".join(scripts).encode()).hexdigest()
    name = f"{app_config.label}_functions_version"
    connection = connections[using]
    if installed_version(connection, name) == version:
        return
    if _install(connection, name, version, scripts) and verbosity:
        print(f"  Installed the functions of {app_config.label}: {version[:12]}")  # noqa: T201 - as migrate itself does


def installed_version(connection: BaseDatabaseWrapper, name: str) -> str:
    """The hash of the installed functions' text, "" where none are. It is stored as a function, so
    that neither a flush nor a dump loses it.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regproc(%s)", [name])
        if cursor.fetchone() == (None,):
            return ""
        cursor.execute(f"SELECT {connection.ops.quote_name(name)}()")
        return str(cursor.fetchone()[0])


def _install(connection: BaseDatabaseWrapper, name: str, version: str, scripts: Sequence[str]) -> bool:
    """Returns whether it installed anything. Looks again under the lock, since another `migrate`
    may have installed them meanwhile.
    """
    marker = f"CREATE OR REPLACE FUNCTION {connection.ops.quote_name(name)}() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '{version}' $$"
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [INSTALL_LOCK])
        executor = MigrationExecutor(connection)
        if installed_version(connection, name) == version or executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return False
        _refuse_an_older_release(executor.loader)
        for script in [*scripts, marker]:
            cursor.execute(script, None)
    return True


def _refuse_an_older_release(loader: MigrationLoader) -> None:
    """Processes of the newer one run, and call its functions."""
    known = set(loader.disk_migrations) | {replaced for squashed in loader.replacements.values() for replaced in squashed.replaces}
    newer = sorted(f"{label}.{name}" for label, name in loader.applied_migrations if label in OURS and (label, name) not in known)
    if newer and not settings.DATABASE_ROLL_BACK:
        raise CommandError(
            f"this database belongs to a newer release, whose functions stay: it has migrations that this one doesn't know ({', '.join(newer)})."
            " Migrate with the newest release; to roll back, stop the newer one's processes and run: DATABASE_ROLL_BACK=1 manage.py migrate"
        )
