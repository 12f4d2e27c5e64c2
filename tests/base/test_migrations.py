"""Migrations that the release before survives: its processes run on, while the new schema is there
already.
"""

import pytest
from django_migration_linter import MigrationLinter

from stack.rundir import CHECKOUT

# It widens a column, which PostgreSQL does without rewriting the table, and the release before
# writes as it did.
ACCEPTED = ["0004_interventions"]
OURS = ["base", "orders", "clearing", "ops"]


@pytest.mark.django_db
def test_no_migration_breaks_the_release_before(capsys: pytest.CaptureFixture[str]) -> None:
    linter = MigrationLinter(str(CHECKOUT), include_apps=OURS, ignore_name=ACCEPTED, no_cache=True)

    linter.lint_all_migrations()

    assert not linter.has_errors, capsys.readouterr().out
    assert linter.nb_total >= 8
