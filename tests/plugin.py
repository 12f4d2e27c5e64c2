"""Servers for the tests: a stack of their own under `.run/test`, up before Django's settings are
read and down at the end.

Loaded by `-p tests.plugin` (pyproject.toml). The controlling process starts the servers and names
them in its environment, where settings, xdist's workers and the processes that tests start find
them. What the environment names already is used instead. A second run at the same time gets a
folder of its own (`.run/test-2`, …).
"""

import os
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from base.collector import leave_alone, uncollected
from stack.errors import StackError
from stack.launcher import Stack
from stack.rundir import default_folder, take
from tests.support.servers import forget_durability

RUNS_MAX = 9


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    options = early_config.known_args_namespace
    if "PYTEST_XDIST_WORKER" in os.environ:
        take_a_broker_database()
    elif not (options.help or options.version or options.collectonly):
        bring_up_servers(early_config)
    return (yield)


def bring_up_servers(config: pytest.Config) -> None:
    """Starts what the environment doesn't name, and sees to its end: also after Ctrl-C, SIGTERM or
    an error in the configuration.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell that started us in the background left SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    try:
        stack = Stack(reserve_folder(config), os.environ)
        config.add_cleanup(stack.down)
        variables = stack.up()
    except StackError as error:
        raise pytest.UsageError(str(error)) from error
    if not stack.is_named("DATABASE_URL"):
        forget_durability(variables["DATABASE_URL"])
    os.environ.update({"RUN_DIR": str(stack.run_dir.folder), **variables, "APPROVER_SETTLED_HOURS": "24", "INTAKE_MAC": "off"})


def reserve_folder(config: pytest.Config) -> Path:
    """The first of the tests' folders that no other run holds; the kernel frees it when we end,
    however that may be.
    """
    for number in range(1, RUNS_MAX + 1):
        folder = default_folder(os.environ) / ("test" if number == 1 else f"test-{number}")
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "pytest.lock").open("a")
        if take(lock.fileno()):
            config.add_cleanup(lock.close)
            return folder
        lock.close()
    raise pytest.UsageError(f"{RUNS_MAX} test runs are going on in this checkout: wait for one to end")


def take_a_broker_database() -> None:
    """Gives each of xdist's workers a database of its own in our broker, as pytest-django does in
    PostgreSQL.
    """
    if Stack(default_folder(os.environ), os.environ).is_named("BROKER_URL"):
        return
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")) + 1
    os.environ["BROKER_URL"] = urlsplit(os.environ["BROKER_URL"])._replace(path=f"/{number}").geturl()


def pytest_configure() -> None:
    """No time limit where whole databases are made and dropped: each drop waits for a checkpoint,
    which a slow disk makes long. After a test only the tables that it used are emptied.
    """
    from django.db.backends.base.base import NO_DB_ALIAS
    from django.db.backends.signals import connection_created
    from django.test import TransactionTestCase

    def without_limits(connection: Any, **_: object) -> None:
        if connection.alias == NO_DB_ALIAS:
            with connection.cursor() as cursor:
                cursor.execute("SET statement_timeout = 0; SET transaction_timeout = 0")

    connection_created.connect(without_limits, weak=False)
    from tests.support.emptying import empty_used_tables

    TransactionTestCase._fixture_teardown = empty_used_tables  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The tests and what they import stay to the end: a quarter of the collection's time."""
    with uncollected():
        collected = yield
    leave_alone()
    return collected
