from collections.abc import Iterator

import pytest

from tests.support.sandbox import SandboxServer, running_sandbox


@pytest.fixture(scope="session")
def sandbox_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxServer]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox"), options=("--seed", "11")) as server:
        yield server
