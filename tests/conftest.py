"""What holds for every test."""

import pytest


@pytest.fixture(autouse=True)
def no_thread_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep starts its process's looking thread, which would look into the next tests'
    database.
    """
    from ops.liveness.watcher import watcher

    monkeypatch.setattr(watcher, "start", lambda _sweep: None)
