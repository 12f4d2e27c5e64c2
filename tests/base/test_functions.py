"""Database functions that a release brings: installed by `migrate`, beside those that the release
before still calls.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from pytest_django import Settings

from base import functions
from base.functions import install_functions, installed_version

pytestmark = pytest.mark.django_db
ANSWER = "CREATE OR REPLACE FUNCTION trial_answer({0}) RETURNS int LANGUAGE sql AS $$ SELECT {1} $$;"


def value(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


class Release:
    """An app's code with one file of functions."""

    def __init__(self, folder: Path) -> None:
        (folder / "sql").mkdir()
        self.file = folder / "sql" / "01_trial.sql"
        self.config = cast("Any", SimpleNamespace(label="trial", path=str(folder)))

    def migrate(self, *functions: str) -> None:
        """Comes with these functions and is migrated to."""
        self.file.write_text("\n".join(functions))
        install_functions(self.config, using="default", verbosity=0)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


class TestInstalling:
    def test_a_new_database_has_this_releases_functions(self) -> None:
        assert len(installed_version(connection, "clearing_functions_version")) == 64

    def test_migrate_brings_this_releases_functions_to_an_older_database(self) -> None:
        ours = value("SELECT clearing_moment(5000)")
        with connection.cursor() as cursor:
            cursor.execute("CREATE OR REPLACE FUNCTION clearing_moment(p_ms bigint) RETURNS timestamptz LANGUAGE sql AS $$ SELECT now() $$")
            cursor.execute("CREATE OR REPLACE FUNCTION clearing_functions_version() RETURNS text LANGUAGE sql AS $$ SELECT 'older' $$")

        call_command("migrate", verbosity=0)

        assert value("SELECT clearing_moment(5000)") == ours

    def test_what_is_installed_is_left_alone(self, release: Release) -> None:
        release.migrate(ANSWER.format("", 1))
        before = value("SELECT xmin::text || ctid::text FROM pg_proc WHERE proname = 'trial_answer'")

        release.migrate(ANSWER.format("", 1))

        assert value("SELECT xmin::text || ctid::text FROM pg_proc WHERE proname = 'trial_answer'") == before

    def test_another_body_replaces_the_old_one(self, release: Release) -> None:
        release.migrate(ANSWER.format("", 1))

        release.migrate(ANSWER.format("", 2))

        assert value("SELECT trial_answer()") == 2

    def test_another_signature_stands_beside_the_one_that_the_release_before_calls(self, release: Release) -> None:
        release.migrate(ANSWER.format("a int", "a"))

        release.migrate(ANSWER.format("a int, b int", "a + b"))

        assert (value("SELECT trial_answer(1)"), value("SELECT trial_answer(1, 2)")) == (1, 3)

    def test_a_mistake_in_one_of_them_installs_none(self, release: Release) -> None:
        release.migrate(ANSWER.format("", 1))

        with pytest.raises(ProgrammingError):
            release.migrate(ANSWER.format("", 2), "CREATE OR REPLACE FUNCTION broken(")

        assert value("SELECT trial_answer()") == 1

    def test_nothing_is_installed_while_migrations_are_missing(self, release: Release) -> None:
        latest = MigrationLoader(connection).graph.leaf_nodes("clearing")[0]
        MigrationRecorder(connection).record_unapplied(*latest)

        release.migrate(ANSWER.format("", 1))

        assert not installed_version(connection, "trial_functions_version")

    def test_a_newer_releases_are_not_put_back(self, release: Release, settings: Settings) -> None:
        release.migrate(ANSWER.format("", 2))
        MigrationRecorder(connection).record_applied("clearing", "9999_of_a_newer_release")

        with pytest.raises(CommandError, match=r"clearing\.9999_of_a_newer_release.*DATABASE_ROLL_BACK=1"):
            release.migrate(ANSWER.format("", 1))
        assert value("SELECT trial_answer()") == 2

        release.migrate(ANSWER.format("", 2))  # the same functions: nothing to refuse
        settings.DATABASE_ROLL_BACK = True
        release.migrate(ANSWER.format("", 1))
        assert value("SELECT trial_answer()") == 1

    def test_migrations_of_others_tell_nothing(self, release: Release) -> None:
        MigrationRecorder(connection).record_applied("sessions", "9999_of_another_django")

        release.migrate(ANSWER.format("", 1))

        assert value("SELECT trial_answer()") == 1

    def test_what_another_migrate_installed_in_the_meantime_is_left_alone(self, release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
        release.migrate(ANSWER.format("", 1))
        before = value("SELECT xmin::text || ctid::text FROM pg_proc WHERE proname = 'trial_answer'")
        looks = iter(["older"])
        monkeypatch.setattr(functions, "installed_version", lambda *arguments: next(looks, "") or installed_version(*arguments))

        release.migrate(ANSWER.format("", 1))

        assert value("SELECT xmin::text || ctid::text FROM pg_proc WHERE proname = 'trial_answer'") == before
