"""Kafka behind TLS and SASL: what the settings demand reaches the client, and what can't work ends
in one clear line.
"""

import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from pytest_django import Settings
from structlog.testing import capture_logs

from base.kafka import KafkaSecurity, WrongSecurity
from orders.intake.result import IngestResult
from orders.stream.consumer import BinlogConsumer, ExitCode, connect
from orders.stream.preflight import check_connectivity
from orders.stream.topic_reader import LogNotReadable, open_reader
from tests.orders.messages import RULES

Certificate = tuple[Path, Path]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "broker.pem", folder / "broker.key"
    subject = ["-subj", "/CN=broker", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key


@contextmanager
def listening(certificate: Certificate) -> Iterator[str]:
    """A server that shakes hands by TLS, and no more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(0.1)
        ending = threading.Event()
        thread = threading.Thread(target=_shake_hands, args=(server, context, ending))
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            ending.set()
            thread.join()


def _shake_hands(server: socket.socket, context: ssl.SSLContext, ending: threading.Event) -> None:
    while not ending.is_set():
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        connection.settimeout(5)
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            connection.close()


def _hang_up(server: socket.socket) -> None:
    connection, _ = server.accept()
    connection.close()


class TestTls:
    def test_with_a_known_authority_is_trusted(self, settings: Settings, certificate: Certificate) -> None:
        settings.KAFKA_SECURITY = KafkaSecurity(protocol="SSL", cafile=str(certificate[0]))

        with listening(certificate) as server:
            check_connectivity([server], 5_000)

    def test_with_an_unknown_authority_ends_the_consumer_with_77(self, settings: Settings, certificate: Certificate) -> None:
        settings.KAFKA_SECURITY = KafkaSecurity(protocol="SSL")

        with listening(certificate) as server:
            settings.KAFKA_BOOTSTRAP_SERVERS = [server]
            ended = BinlogConsumer(partial(connect, "group"), lambda _: IngestResult(), lambda: RULES, threading.Event()).run()

        assert ended == ExitCode.NOT_ALLOWED

    def test_with_an_unknown_authority_ends_a_replay_with_a_clear_line(self, settings: Settings, certificate: Certificate) -> None:
        settings.KAFKA_SECURITY = KafkaSecurity(protocol="SSL")

        with listening(certificate) as server, pytest.raises(LogNotReadable, match="KAFKA_SSL_CAFILE"), open_reader([server], "orders"):
            pass

    def test_that_breaks_off_is_a_broker_that_is_away(self, settings: Settings) -> None:
        settings.KAFKA_SECURITY = KafkaSecurity(protocol="SSL")

        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            hanging_up = threading.Thread(target=_hang_up, args=(server,))
            hanging_up.start()

            with pytest.raises(ConnectionRefusedError, match="no connection to any of"):
                check_connectivity([f"127.0.0.1:{server.getsockname()[1]}"], 5_000)
            hanging_up.join()


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A broker that answers one connection's requests with these bodies, one after another, and
    hangs up.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=_answer, args=(server, answers))
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join()


def _answer(server: socket.socket, answers: tuple[bytes, ...]) -> None:
    connection, _ = server.accept()
    connection.settimeout(5)
    with connection:
        for body in answers:
            (length,) = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))
            asked = connection.recv(length, socket.MSG_WAITALL)
            connection.sendall(struct.pack(">i", 4 + len(body)) + asked[4:8] + body)


WELCOME = struct.pack(">hih", 0, 1, 5) + b"PLAIN"
REFUSED = struct.pack(">hh", 58, 14) + b"Invalid secret" + struct.pack(">i", -1)
ACCEPTED = struct.pack(">hhi", 0, -1, 0)
OTHERS_ONLY = struct.pack(">hih", 33, 1, 6) + b"GSSAPI"


class TestCredentials:
    @pytest.fixture(autouse=True)
    def plain(self, settings: Settings) -> None:
        settings.KAFKA_SECURITY = KafkaSecurity(protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="me", password="secret")

    def test_that_are_accepted_are_fine(self) -> None:
        with answering(WELCOME, ACCEPTED) as server:
            check_connectivity([server], 5_000)

    @pytest.mark.parametrize(("answers", "said"), [((WELCOME, REFUSED), "Invalid secret"), ((OTHERS_ONLY,), "PLAIN isn't one of")])
    def test_that_are_refused_end_the_consumer_with_77_and_one_line(self, settings: Settings, answers: tuple[bytes, ...], said: str) -> None:
        with answering(*answers) as server, capture_logs() as lines:
            settings.KAFKA_BOOTSTRAP_SERVERS = [server]
            ended = BinlogConsumer(partial(connect, "group"), lambda _: IngestResult(), lambda: RULES, threading.Event()).run()

        assert ended == ExitCode.NOT_ALLOWED
        (line,) = lines
        assert said in line["event"]
        assert "KAFKA_SASL_PASSWORD" in line["fix"]

    def test_that_are_refused_end_a_replay_with_a_clear_line(self) -> None:
        with answering(WELCOME, REFUSED) as server, pytest.raises(LogNotReadable, match="Invalid secret"), open_reader([server], "orders"):
            pass

    @pytest.mark.parametrize("answers", [(), (WELCOME,), (b"HTTP/1.1 400 Bad Request",), (b"\x00\x01",)])
    def test_that_are_not_answered_are_an_unavailable_broker(self, answers: tuple[bytes, ...]) -> None:
        with answering(*answers) as server, pytest.raises(ConnectionRefusedError, match="no connection to any of"):
            check_connectivity([server], 5_000)


class TestSettings:
    def test_of_sasl_reach_the_client(self) -> None:
        security = KafkaSecurity(protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="intake", password="secret")

        assert security.client_options() == {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": "intake",
            "sasl_plain_password": "secret",
        }

    def test_show_no_secret(self) -> None:
        assert "secret" not in repr(KafkaSecurity(protocol="SASL_SSL", mechanism="PLAIN", username="intake", password="secret"))

    @pytest.mark.parametrize(
        ("given", "names"),
        [
            ({"protocol": "TLS"}, "KAFKA_SECURITY_PROTOCOL"),
            ({"protocol": "SASL_SSL", "mechanism": "PLAIN", "username": "intake"}, "KAFKA_SASL_PASSWORD"),
            ({"protocol": "SASL_SSL", "mechanism": "MD5", "username": "intake", "password": "x"}, "KAFKA_SASL_MECHANISM"),
            ({"password": "x"}, "sends no credentials"),
            ({"protocol": "SSL", "cafile": "missing.pem"}, "KAFKA_SSL_CAFILE"),
            ({"cafile": "missing.pem"}, "encrypts nothing"),
            ({"protocol": "SSL", "keyfile": __file__}, "KAFKA_SSL_CERTFILE"),
        ],
    )
    def test_that_do_not_go_together_are_named(self, given: dict[str, str], names: str) -> None:
        with pytest.raises(WrongSecurity, match=names):
            KafkaSecurity(**given)

    def test_of_sasl_are_named_where_a_broker_does_not_serve_us(self, settings: Settings) -> None:
        settings.KAFKA_SECURITY = KafkaSecurity(protocol="SASL_PLAINTEXT", mechanism="PLAIN", username="intake", password="refused")

        with pytest.raises(LogNotReadable, match="KAFKA_SASL_PASSWORD"), open_reader(["127.0.0.1:1"], "orders"):
            pass
