"""A process's node at a real ZooKeeper: there as long as the process, again after its session
ended, under its new name after it took one.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from base.membership import Membership
from base.zookeeper import ZooKeeperAddress, parse_address
from stack.zookeeper import ZooKeeper, missing
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.zookeeper, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
SESSION_SECONDS = 1.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    made = ZooKeeper(Path(tmp_path_factory.mktemp("zookeeper")))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def address(server: ZooKeeper) -> ZooKeeperAddress:
    found = parse_address(f"zk://{server.address}/t{time.monotonic_ns()}", session_seconds=SESSION_SECONDS, username="u", password="p")
    assert found is not None
    return found


@pytest.fixture
def watcher(address: ZooKeeperAddress) -> Iterator[Membership]:
    yield from running(address, "watcher")


@pytest.fixture
def member(address: ZooKeeperAddress) -> Iterator[Membership]:
    yield from running(address, "member-1")


def running(address: ZooKeeperAddress, name: str) -> Iterator[Membership]:
    made = Membership(address)
    wait_until(lambda: shows(made, name))
    yield made
    made.leave()


def shows(membership: Membership, name: str) -> bool:
    """As the heart does, once a second."""
    membership.show(name)
    view = membership.look()
    return view is not None and name in view.names


def names(watcher: Membership) -> set[str]:
    view = watcher.look()
    return set(view.names) if view else set()


class TestNode:
    def test_it_goes_when_the_process_ends(self, watcher: Membership, member: Membership) -> None:
        assert names(watcher) == {"watcher", "member-1"}

        member.leave()

        wait_until(lambda: names(watcher) == {"watcher"})

    def test_a_new_name_takes_the_place_of_the_old(self, watcher: Membership, member: Membership) -> None:
        wait_until(lambda: shows(member, "member-2"))

        assert names(watcher) == {"watcher", "member-2"}

    def test_it_comes_again_after_an_outage_of_zookeeper(self, watcher: Membership, member: Membership, server: ZooKeeper) -> None:
        before = watcher.look()
        server.kill()
        wait_until(lambda: watcher.look() is None)
        server.start()

        wait_until(lambda: shows(watcher, "watcher") and shows(member, "member-1") and names(watcher) == {"watcher", "member-1"}, seconds=20)

        assert before is not None

    def test_showing_never_waits_long_for_one_that_is_frozen(self, member: Membership, server: ZooKeeper) -> None:
        server.freeze()
        began = time.monotonic()
        try:
            member.show(f"member-{os.getpid()}")
        finally:
            server.thaw()

        assert time.monotonic() - began < 15


class TestWithoutZooKeeper:
    def test_nobody_is_there_to_see(self) -> None:
        membership = Membership(None)

        membership.show("x")
        membership.leave()

        assert membership.look() is None
