"""LEADERSHIP_URL and what goes with it; a client that never crosses a fork."""

import os

import pytest

from base.zookeeper import OtherProcess, WrongAddress, ZooKeeperAddress, make_client, parse_address
from tests.support.settings import COMPLETE, started_with


def address(url: str = "zk://one:2181,[::1]:2182/acceptance", **others: str) -> ZooKeeperAddress | None:
    return parse_address(url, session_seconds=4.0, **others)


class TestAddress:
    def test_names_the_servers_and_the_node_below_which_ours_lie(self) -> None:
        found = address()

        assert found is not None
        assert found.servers == ("one:2181", "[::1]:2182")
        assert found.path("nodes") == "/acceptance/nodes"

    def test_none_is_a_lease_in_postgresql(self) -> None:
        assert address("") is None

    @pytest.mark.parametrize(
        "url",
        [
            "one:2181/acceptance",
            "zk://",
            "zk:///acceptance",
            "zk://one:2181",
            "zk://one:2181/",
            "zk://one/acceptance",
            "zk://one:0/a",
            "zk://one:99999/a",
            "zk://one:2181,/a",
            "zk://one:2181/a//b",
            "zk://one:2181/a b",
            "zk://one:2181/zookeeper",
            "redis://one:2181/a",
            "zk://me:secret@one:2181/a",
        ],
    )
    def test_one_that_is_malformed_is_refused_and_says_what_to_do(self, url: str) -> None:
        with pytest.raises(WrongAddress, match=r"LEADERSHIP_URL.*set"):
            address(url)

    def test_credentials_belong_together(self) -> None:
        with pytest.raises(WrongAddress, match="set both"):
            address(username="me")
        with pytest.raises(WrongAddress, match="colon"):
            address(username="a:b", password="secret")
        with pytest.raises(WrongAddress, match="LEADERSHIP_URL isn't"):
            address("", username="me", password="secret")

    @pytest.mark.parametrize("seconds", [0.1, 600])
    def test_a_session_has_a_sensible_length(self, seconds: float) -> None:
        with pytest.raises(WrongAddress, match="ZOOKEEPER_SESSION_SECONDS"):
            parse_address("zk://one:2181/a", session_seconds=seconds)

    def test_a_password_is_shown_nowhere(self) -> None:
        assert "secret" not in repr(address(username="me", password="secret"))


class TestSettings:
    def test_a_malformed_url_is_refused_at_the_start(self) -> None:
        ended = started_with({**COMPLETE, "LEADERSHIP_URL": "zookeeper.example"})

        assert ended.returncode != 0
        assert "LEADERSHIP_URL is 'zookeeper.example': set it as in zk://" in ended.stderr


class TestClient:
    @pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
    def test_is_of_no_use_in_a_process_that_it_was_not_started_in(self) -> None:
        found = address("zk://127.0.0.1:1/acceptance")
        assert found is not None
        client = make_client(found)
        client.start_async()

        child = os.fork()
        if not child:
            try:
                client.exists_async("/")
            except OtherProcess:
                os._exit(0)
            os._exit(1)

        _, status = os.waitpid(child, 0)
        assert status == 0
        client.stop()
        client.close()
