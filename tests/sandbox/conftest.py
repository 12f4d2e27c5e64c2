from collections.abc import Iterator

import pytest

from tests.sandbox.steps import Users
from tests.support.sandbox import SandboxServer, running_sandbox


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxServer]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox"), options=("--seed", "7")) as server:
        yield server


@pytest.fixture
def sandbox_server(shared_sandbox: SandboxServer) -> Iterator[SandboxServer]:
    """One sandbox for all tests of a process; a test leaves no fault behind and uses users of its
    own.
    """
    yield shared_sandbox
    shared_sandbox.clear_faults()


@pytest.fixture
def user_id() -> str:
    return Users.fresh()
