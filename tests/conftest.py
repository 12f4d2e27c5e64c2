"""What holds for every test."""

import pytest


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
