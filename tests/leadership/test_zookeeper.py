"""Leadership by a real ZooKeeper: `make test-zookeeper`. Skipped, with the reason, where none can
run.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError

from base.process_name import new_name
from base.zookeeper import ZooKeeperAddress, make_client, parse_address
from ops.leadership import LeaderCandidate, ZooKeeperCandidate
from stack.ports import LOOPBACK
from stack.zookeeper import ZooKeeper, missing
from tests.leadership.contract import SESSION_SECONDS, Field, LeadershipContract, each_end
from tests.leadership.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.zookeeper, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


def address_of(server: ZooKeeper, root: str, **credentials: str) -> ZooKeeperAddress:
    found = parse_address(f"zk://{server.address}/{root}", session_seconds=SESSION_SECONDS, **credentials)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeper]:
    made = ZooKeeper(Path(tmp_path_factory.mktemp("zookeeper")))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def address(server: ZooKeeper) -> ZooKeeperAddress:
    """A folder of each test's own."""
    return address_of(server, f"{new_name().rpartition(':')[2]}/acceptance", username="acceptance", password="secret")


PROXIES: dict[str, Proxy] = {}  # before the server, one for each candidate, by its name


@pytest.fixture
def field(address: ZooKeeperAddress, server: ZooKeeper) -> Iterator[Field]:
    def make(name: str, **options: Any) -> ZooKeeperCandidate:
        PROXIES[name] = Proxy((LOOPBACK, server.port))
        return ZooKeeperCandidate(name, replace(address, servers=(PROXIES[name].address,)), **options)

    yield from each_end(make)
    while PROXIES:
        PROXIES.popitem()[1].close()


@pytest.fixture
def stranger(server: ZooKeeper) -> Iterator[KazooClient]:
    client = make_client(address_of(server, "elsewhere"))
    client.start()
    yield client
    client.stop()
    client.close()


def zookeeper(candidate: LeaderCandidate) -> ZooKeeperCandidate:
    assert isinstance(candidate, ZooKeeperCandidate)
    return candidate


class TestZooKeeper(LeadershipContract):
    """The contract."""

    def silence(self, candidate: LeaderCandidate) -> None:
        """Kazoo's own threads would go on without ours."""
        super().silence(candidate)
        PROXIES[candidate.name].cut()

    def test_each_watches_the_one_before_alone(self, field: Field) -> None:
        first = field.leading()
        others = []
        for count in range(2, 5):
            others.append(field.running())
            wait_until(lambda count=count: len(first.members()) == count)  # type: ignore[misc]
        watching = [zookeeper(other) for other in others]
        wait_until(lambda: all(other._client and other._client._data_watchers for other in watching))

        for before, other in zip([zookeeper(first), *watching], watching, strict=False):
            assert other._client is not None
            assert list(other._client._data_watchers) == [f"{other._folder}/{before._node}"]

    def test_one_that_stood_in_between_wakes_nobody_who_could_lead(self, field: Field) -> None:
        leader = field.leading()
        between, last = field.running(), field.running()
        wait_until(lambda: len(leader.members()) == 3)

        between.resign()
        wait_until(lambda: len(leader.members()) == 2)
        leader.resign()

        wait_until(lambda: last.is_leader)

    def test_a_node_whose_making_was_not_answered_is_found_again(self, field: Field) -> None:
        leader = zookeeper(field.leading())
        client = leader._client
        assert client is not None

        node = leader._node
        leader._node = ""  # as after a create whose answer was lost; what a leader does without a node is to lead no more
        wait_until(lambda: leader._node and leader.is_leader)

        assert client.get_children(leader._folder) == [node]

    def test_a_node_of_an_earlier_session_is_removed(self, field: Field, address: ZooKeeperAddress) -> None:
        candidate = zookeeper(field.candidate())
        earlier = make_client(address)
        earlier.start()
        earlier.ensure_path(candidate._folder)
        left = earlier.create(f"{candidate._folder}/{candidate._prefix}", ephemeral=True, sequence=True)

        candidate.campaign()

        wait_until(lambda: candidate.is_leader)
        assert earlier.get_children(candidate._folder) == [candidate._node] != [left.rpartition("/")[2]]
        earlier.stop()
        earlier.close()

    def test_strangers_may_not_touch_what_is_ours(self, field: Field, stranger: KazooClient) -> None:
        leader = zookeeper(field.leading())

        with pytest.raises(NoAuthError):
            stranger.delete(f"{leader._folder}/{leader._node}")
        with pytest.raises(NoAuthError):
            stranger.get_children(leader._folder)

    def test_a_leader_whose_node_is_gone_leads_no_more_and_stands_again(self, field: Field) -> None:
        leader = zookeeper(field.leading())
        term = leader.term
        assert leader._client is not None

        leader._client.delete(f"{leader._folder}/{leader._node}")

        wait_until(lambda: leader.term != term)
        wait_until(lambda: leader.is_leader)
        assert leader.term == (term or 0) + 1

    def test_who_is_elected_and_can_not_reach_postgresql_gives_its_place_away(self, field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
        cut_off = field.candidate()

        def away(*_: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        monkeypatch.setattr(cut_off, "_take_term", away)
        cut_off.campaign()
        wait_until(lambda: len(cut_off.members()) == 1)
        other = field.running()

        wait_until(lambda: other.is_leader, seconds=30 * SESSION_SECONDS)


class TestOutages:
    """Of the server, while PostgreSQL is up."""

    @pytest.fixture(autouse=True)
    def database(self, transactional_db: None) -> None:
        """Candidates' threads have connections of their own."""

    def test_without_a_server_nobody_leads_and_all_heals_by_itself(self, field: Field, server: ZooKeeper, caplog: pytest.LogCaptureFixture) -> None:
        leader, other = field.leading(), field.running()
        wait_until(lambda: len(leader.members()) == 2)

        server.kill()
        wait_until(lambda: not field.leaders())
        wait_until(lambda: "no ZooKeeper serves us" in caplog.text, seconds=30 * SESSION_SECONDS)
        server.start()

        wait_until(field.leaders)
        wait_until(lambda: len(other.members()) == 2)

    def test_a_frozen_server_ends_leading(self, field: Field, server: ZooKeeper) -> None:
        leader = field.leading()

        server.freeze()
        try:
            wait_until(lambda: not leader.is_leader)
        finally:
            server.thaw()

        wait_until(field.leaders)

    def test_who_resigns_while_the_server_is_frozen_is_not_held_up(self, field: Field, server: ZooKeeper) -> None:
        leader = field.leading()

        server.freeze()
        try:
            began = time.monotonic()
            leader.resign()
            assert time.monotonic() - began < 15
        finally:
            server.thaw()
