from collections.abc import Iterator

import pytest

from tests.gateways.sides import FakeSide, SandboxSide, Side, closed_port
from tests.support.sandbox import SandboxServer, running_sandbox


@pytest.fixture(scope="session")
def sandbox_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxServer]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as server:
        yield server


@pytest.fixture(params=["fake", "sandbox"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    if request.param == "fake":
        yield FakeSide()
        return
    server = request.getfixturevalue("sandbox_server")
    with closed_port() as port:
        yield SandboxSide(server, port)
        server.clear_faults()
