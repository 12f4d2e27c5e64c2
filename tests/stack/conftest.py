"""Stacks of the tests' own, in folders of their own, down at the end."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from stack.launcher import Stack

NAMED = {
    "DATABASE_URL": "postgresql://somebody@database.example/acceptance",
    "BROKER_URL": "redis://broker.example/0",
    "KAFKA_BOOTSTRAP_SERVERS": "log.example:9092",
}
MakeStack = Callable[..., Stack]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A run folder that everybody can enter; pytest's own are private."""
    path = Path(tempfile.mkdtemp(prefix="stack-test-"))
    path.chmod(0o755)
    yield path / "run"
    shutil.rmtree(path)


@pytest.fixture
def make_stack(folder: Path) -> Iterator[MakeStack]:
    """Makes stacks over the same folder, as one command after the other does."""

    def make(environ: dict[str, str] | None = None) -> Stack:
        return Stack(folder, {"PATH": os.environ["PATH"], **(environ or {})})

    yield make
    make().down()


@pytest.fixture
def stack(make_stack: MakeStack) -> Stack:
    return make_stack()


def processes_of(folder: Path) -> list[str]:
    """Command lines of all processes that name the folder."""
    lines = []
    for process in psutil.process_iter():
        try:
            lines.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [line for line in lines if str(folder) in line]
