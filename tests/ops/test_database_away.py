"""Any command without its database says so in one line, and how to mend it."""

import sys

import pytest

from tests.support.settings import started_with

NOBODY = {"ENVIRONMENT": "development", "DATABASE_URL": "postgresql://me:s3cret@127.0.0.1:1/nothing", "RUN_DIR": "/no/stack/here"}
COMMANDS = [
    ["migrate", "--noinput"],
    ["showmigrations"],
    ["createsuperuser", "--noinput", "--username=a", "--email=a@b.example"],
    ["replay", "--quarantined"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_is_one_line_with_the_fix_and_exit_code_2(command: list[str]) -> None:
    ended = started_with({**NOBODY, "DJANGO_SUPERUSER_PASSWORD": "a-Long-one-0123"}, sys.executable, "-W", "ignore", "manage.py", *command)

    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 2
    assert len(lines) == 1, ended.stderr
    assert "database unavailable: " in lines[0]
    assert "correct DATABASE_URL" in lines[0] or "repeat the command" in lines[0]
    assert "s3cret" not in ended.stderr + ended.stdout


def test_a_traceback_is_shown_to_who_asks_for_it() -> None:
    ended = started_with(NOBODY, sys.executable, "-W", "ignore", "manage.py", "migrate", "--traceback")

    assert "Traceback" in ended.stderr
