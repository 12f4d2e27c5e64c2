"""What holds for every test."""

from typing import Any

import pytest

from tests.support.emptying import STARTED_SQL


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """The tests' database accepts orders, as one does after its first start; and it has a clock
    that they may shift, as no other has.
    """
    from django.db import connection

    from tests.support.clock import make_clock_shiftable

    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(STARTED_SQL)
        make_clock_shiftable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first, since they take longest: the short ones after them
    leave neither of `make test`'s two workers idle at the end.
    """
    first = {item.path for item in items if item.get_closest_marker("processes")}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep starts its process's looking thread, which would look into the next tests'
    database.
    """
    from ops.liveness.watcher import watcher

    monkeypatch.setattr(watcher, "start", lambda _sweep: None)
