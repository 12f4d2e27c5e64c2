"""Every command that README, docs and `make help` name is run by `make smoke`, or is an exception
with a reason.
"""

import re

import pytest

from stack.rundir import CHECKOUT
from tests.smoke.documents import HELP, commands_in, documented
from tests.smoke.table import EXCEPTIONS, EXCEPTIONS_MAX, checks, known_commands, own_commands


def test_every_documented_command_is_run_by_smoke() -> None:
    unknown = {command: place for command, place in documented().items() if command not in known_commands()}

    assert unknown == {}, "add each to tests/smoke/table.py, with a small size, or to EXCEPTIONS with a reason"


def test_the_documents_name_commands_of_each_kind() -> None:
    found = documented()

    assert len(found) > 40
    assert {"make demo", "make up", "manage.py audit", "manage.py stack up", "python -m benchmarks overhead"} <= set(found)


def test_every_command_of_ours_is_run_by_smoke() -> None:
    ours = own_commands()

    assert {"audit", "stack", "sandbox", "replay"} <= set(ours)
    run = {command for check in checks() if not check.name.endswith("--help") for command in check.covers}
    assert [name for name in ours if not any(f"{command} ".startswith(f"manage.py {name} ") for command in run)] == []


def test_every_exception_has_a_reason_and_they_are_few() -> None:
    assert len(EXCEPTIONS) <= EXCEPTIONS_MAX
    assert all(len(reason.split()) > 1 for reason in EXCEPTIONS.values())
    assert [command for command in EXCEPTIONS if command not in documented() and command != "make help"] == []
    covered = {command for check in checks() for command in check.covers}
    assert covered.isdisjoint(EXCEPTIONS)


def test_names_of_checks_are_unique() -> None:
    names = [check.name for check in checks()]

    assert len(names) == len(set(names))


def test_every_target_of_the_makefile_has_a_help_text() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))

    assert targets == set(HELP.findall(makefile))


@pytest.mark.parametrize(
    ("markdown", "commands"),
    [
        ("run `make up` and then `make bench BENCH=burst`", ["make up", "make bench"]),
        ("what it can make this call is 403", []),
        ("```\nmake demo      # then make coffee\n```", ["make demo"]),
        ("`DATABASE_STATEMENT_MS_MAX=0 python manage.py migrate`", ["manage.py migrate"]),
        ("`manage.py stack services up worker.2` `manage.py stack status --json`", ["manage.py stack services up", "manage.py stack status"]),
        ("`manage.py replay --quarantined`", ["manage.py replay"]),
        ("`python -m benchmarks decode|pages [--json]`", ["python -m benchmarks decode", "python -m benchmarks pages"]),
        ("`python -m stack.supervisor NAME…`", ["python -m stack.supervisor"]),
        ("| `make …` | does |\n| --- | --- |\n| `up`, `down` | starts `nothing` |\n\n| `other` | x |", ["make up", "make down"]),
        (
            "| `manage.py …` | does |\n| --- | --- |\n| `stack up`, `down` | x |\n| `stack services …` | `up` |\n| `audit` | x |",
            ["manage.py stack up", "manage.py stack down", "manage.py stack services", "manage.py audit"],
        ),
    ],
)
def test_commands_are_read_from_code_and_tables_alone(markdown: str, commands: list[str]) -> None:
    assert list(commands_in(markdown)) == commands
