from collections.abc import Iterator

import pytest

from stack.rundir import CHECKOUT
from tests.support.service import WITHOUT_WEB, LiveService, live_service


@pytest.fixture(scope="module")
def service() -> Iterator[LiveService]:
    """One running service for the tests of a module; each test adds orders to it, and the audit
    looks at all of them.
    """
    with live_service(CHECKOUT / ".run" / "acceptance", services=WITHOUT_WEB) as running:
        yield running
