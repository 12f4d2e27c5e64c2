"""The whole service without its ZooKeeper: orders go on, only the periodic jobs wait, and all heals
by itself.
"""

import shutil

import pytest

from stack.rundir import CHECKOUT
from stack.zookeeper import ZooKeeper, missing
from tests.support.service import WITHOUT_WEB, LiveService, live_service
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.zookeeper,
    pytest.mark.processes,
    pytest.mark.timeout(600),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]
STREAMED, LOST = 40, 5


def lose(service: LiveService, count: int) -> None:
    """The next orders are never streamed: the gap pass alone finds them."""
    service.set_fault(counterparty="counter", operation="place", kind="not_streamed", count=count)


class TestZooKeeperIsAway:
    def test_orders_clear_and_the_gap_pass_catches_up_afterwards(self) -> None:
        folder = CHECKOUT / ".run" / "outage-zookeeper"
        shutil.rmtree(folder, ignore_errors=True)
        server = ZooKeeper(folder)
        server.start()
        try:
            url = f"zk://{server.address}/acceptance"
            its_folder = CHECKOUT / ".run" / "outage"
            with live_service(its_folder, services=WITHOUT_WEB, LEADERSHIP_URL=url, ZOOKEEPER_SESSION_SECONDS="1") as service:
                service.place(20, users=5)
                service.audit()

                server.kill()
                lose(service, LOST)
                service.place(LOST, users=5, seed=2)
                service.place(STREAMED, users=10, seed=3)
                wait_until(lambda: service.cleared() == 20 + STREAMED, seconds=60)
                server.start()

                report = service.audit()
        finally:
            server.kill()
            shutil.rmtree(folder, ignore_errors=True)

        assert report["cleared"] == 20 + LOST + STREAMED
