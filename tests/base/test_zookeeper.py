"""LEADERSHIP_URL and what goes with it; a client that never crosses a fork."""

import gc
import logging
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # kazoo leaves the socket of a failed handshake open
class TestTls:
    """ZooKeeper by TLS: `ZOOKEEPER_SSL_CAFILE`."""

    @pytest.fixture(autouse=True)
    def no_record_keeps_a_socket(self, caplog: pytest.LogCaptureFixture) -> None:
        """Pytest keeps log records until after the test, and kazoo's of a failed handshake hold its
        error, whose frames hold the socket: it would be collected where the mark above ended.
        """
        caplog.set_level(logging.CRITICAL, "kazoo")

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"cafile": "/no/such/file"}, "ZOOKEEPER_SSL_CAFILE is '/no/such/file'"),
            ({"cafile": __file__, "certfile": __file__}, "ZOOKEEPER_SSL_KEYFILE is not set, but ZOOKEEPER_SSL_CERTFILE is"),
            ({"cafile": __file__, "keyfile": __file__}, "ZOOKEEPER_SSL_CERTFILE is not set, but ZOOKEEPER_SSL_KEYFILE is"),
            ({"certfile": __file__, "keyfile": __file__}, "ZOOKEEPER_SSL_CAFILE isn't"),
        ],
    )
    def test_settings_that_do_not_go_together_are_refused(self, given: dict[str, str], says: str) -> None:
        with pytest.raises(WrongAddress) as refused:
            address(**given)

        assert any(says in text for text in refused.value.args)

    def test_its_settings_without_an_address_are_refused(self) -> None:
        with pytest.raises(WrongAddress, match="LEADERSHIP_URL isn't"):
            address("", cafile=__file__)

    def test_a_private_keys_password_is_not_shown(self) -> None:
        assert "s3cret" not in repr(address(cafile=__file__, key_password="s3cret"))

    def test_only_servers_of_the_authority_are_talked_to(self, tmp_path: Path) -> None:
        ours, others = certificate(tmp_path / "ours"), certificate(tmp_path / "others")

        assert shakes_hands("127.0.0.1", ours, authority=ours)
        assert not shakes_hands("127.0.0.1", others, authority=ours)

    def test_and_only_under_their_own_name(self, tmp_path: Path) -> None:
        ours = certificate(tmp_path / "ours")

        assert not shakes_hands("localhost", ours, authority=ours)  # the certificate is of 127.0.0.1


def certificate(file: Path) -> Path:
    """A certificate of 127.0.0.1 that vouches for itself, and its key, in one file."""
    names = ["-subj", "/CN=zookeeper", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, "-keyout", f"{file}.key", "-out", f"{file}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(Path(f"{file}.key").read_bytes() + Path(f"{file}.crt").read_bytes())
    return file


def shakes_hands(host: str, shown: Path, *, authority: Path) -> bool:
    """Whether a client says its first words to a server with this certificate."""
    with server_of(shown) as (port, spoken):
        found = address(f"zk://{host}:{port}/a", cafile=str(authority))
        assert found is not None
        client = make_client(found)
        client.start_async()
        try:
            return spoken.wait(3)
        finally:
            client.stop()
            client.close()
            gc.collect()


@contextmanager
def server_of(shown: Path) -> Iterator[tuple[int, threading.Event]]:
    """Shakes hands and reads; says whether anything came."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown)
    spoken, ending = threading.Event(), threading.Event()

    def serve() -> None:
        while not ending.is_set():
            with suppress(OSError):  # ssl.SSLError, and the pause of accept
                connection, _ = server.accept()
                with closing(connection), context.wrap_socket(connection, server_side=True) as secure:
                    if secure.recv(1):
                        spoken.set()

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(0.1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], spoken
        finally:
            ending.set()
            thread.join()
