import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from base.http import ANSWER_BYTES_MAX, AnswerLost, HttpAnswer, HttpError, NotSent, SignedClient
from tests.base.raw_server import OK, Connection, RawServer, answer, answering, raw_server

KEY = "a secret"
NOW_MS = 1_790_000_000_000


def get(client: SignedClient, path: str = "/v1/thing", *, deadline_ms: int = 5_000) -> HttpAnswer:
    return client.request("GET", path, deadline_ms=deadline_ms, timestamp_ms=NOW_MS)


def post(client: SignedClient, body: bytes = b"{}", *, headers: dict[str, str] | None = None, deadline_ms: int = 5_000) -> HttpAnswer:
    return client.request("POST", "/v1/things", body=body, headers=headers, deadline_ms=deadline_ms, timestamp_ms=NOW_MS)


def failure_of(handle: Callable[[Connection], None], *, deadline_ms: int = 5_000) -> HttpError:
    """How a POST to such a server ends."""
    with raw_server(handle) as server, pytest.raises(HttpError) as caught:
        post(SignedClient(server.url, KEY), deadline_ms=deadline_ms)
    return caught.value


def read_then_send(data: bytes) -> Callable[[Connection], None]:
    """Reads one request, sends these bytes and closes."""

    def handle(connection: Connection) -> None:
        connection.read_request()
        connection.send(data)

    return handle


@pytest.fixture
def server() -> Iterator[RawServer]:
    with raw_server(answering(answer(Content_Type="Application/JSON; charset=utf-8"))) as running:
        yield running


class TestRequest:
    def test_signs_what_is_sent(self, server: RawServer) -> None:
        post(SignedClient(server.url + "/counter", KEY), b'{"key":"a:1"}')

        [received] = server.received
        assert (received.method, received.target, received.body) == ("POST", "/counter/v1/things", b'{"key":"a:1"}')
        assert received.headers["x-timestamp"] == str(NOW_MS)
        assert received.headers["x-signature"] == received.signature_under(KEY)

    @pytest.mark.parametrize("path", ["/v1/a%2Fb%3a1?x=%20&y=1", "/v1/../a//b/./c", "/v1/a:1.2:r1", "/v1/'\"<>[]{}|\\^`~?a?b"])
    def test_sends_a_target_exactly_as_it_was_signed(self, server: RawServer, path: str) -> None:
        get(SignedClient(server.url + "/fund", KEY), path)

        [received] = server.received
        assert received.target == "/fund" + path
        assert received.headers["x-signature"] == received.signature_under(KEY)

    def test_carries_the_callers_headers_and_never_asks_before_it_sends(self, server: RawServer) -> None:
        large = b"x" * (3 << 20)

        post(SignedClient(server.url, KEY), large, headers={"Idempotency-Key": "a:1"})

        [received] = server.received
        assert received.headers["idempotency-key"] == "a:1"
        assert received.headers["content-type"] == "application/json"
        assert "expect" not in received.headers
        assert received.body == large

    def test_alternates_between_questions_and_calls(self, server: RawServer) -> None:
        client = SignedClient(server.url, KEY)

        post(client, b"first")
        get(client)
        post(client, b"")

        assert [(received.method, received.body) for received in server.received] == [("POST", b"first"), ("GET", b""), ("POST", b"")]

    def test_doesnt_use_a_proxy_of_the_environment(self, server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

        assert get(SignedClient(server.url, KEY)).status == 200

    @pytest.mark.parametrize("path", ["/v1/a b", "/v1/a#b", "/v1/é", "/v1/a\r\nX-Evil: 1"])
    def test_refuses_a_target_that_would_be_changed_on_its_way(self, server: RawServer, path: str) -> None:
        with pytest.raises(NotSent, match="request_unsendable"):
            get(SignedClient(server.url, KEY), path)

        assert server.received == []

    @pytest.mark.parametrize("value", ["a:1\r\nX-Evil: 1", "é", "", "a\x00b"])
    def test_refuses_a_header_that_would_become_something_else(self, server: RawServer, value: str) -> None:
        with pytest.raises(NotSent, match="request_unsendable"):
            post(SignedClient(server.url, KEY), headers={"Idempotency-Key": value})

        assert server.received == []

    def test_refuses_a_deadline_that_libcurl_would_take_for_none(self, server: RawServer) -> None:
        with pytest.raises(ValueError, match="deadline"):
            get(SignedClient(server.url, KEY), deadline_ms=0)

    @pytest.mark.parametrize("url", ["ftp://host", "file:///etc/passwd", "host:80", "http://", "http://user:pw@host", "http://host/?a=1", ""])
    def test_takes_only_the_address_of_a_service_and_shows_no_other(self, url: str) -> None:
        with pytest.raises(ValueError, match="isn't the address of a service") as refused:
            SignedClient(url, KEY)

        assert not url or url not in str(refused.value)


class TestAnswer:
    def test_has_status_media_type_and_body(self, server: RawServer) -> None:
        assert get(SignedClient(server.url, KEY)) == HttpAnswer(200, "application/json", None, OK)

    @pytest.mark.parametrize("status", ["201 Created", "404 Not Found", "422 Odd", "503 Busy"])
    def test_is_returned_whatever_its_status(self, status: str) -> None:
        with raw_server(answering(answer(status, Retry_After="7"))) as server:
            found = post(SignedClient(server.url, KEY))

        assert found == HttpAnswer(int(status[:3]), "", 7, OK)

    def test_that_redirects_isnt_followed(self, server: RawServer) -> None:
        with raw_server(answering(answer("307 Elsewhere", Location=server.url))) as redirecting:
            found = post(SignedClient(redirecting.url, KEY))

        assert found.status == 307
        assert server.received == []

    def test_doesnt_leak_into_the_next_one(self) -> None:
        def handle(connection: Connection) -> None:
            connection.read_request()
            connection.send(answer("429 Slow down", b"long body of the first", Retry_After="9", Content_Type="text/plain"))
            connection.read_request()
            connection.send(answer("200 OK", b""))

        with raw_server(handle) as server:
            client = SignedClient(server.url, KEY)
            post(client)
            second = post(client)

        assert second == HttpAnswer(200, "", None, b"")


class TestConnections:
    def test_one_is_kept_and_used_again(self, server: RawServer) -> None:
        client = SignedClient(server.url, KEY)

        for _ in range(5):
            post(client)

        assert len(server.connections) == 1

    def test_every_thread_has_its_own(self, server: RawServer) -> None:
        client = SignedClient(server.url, KEY)
        together = threading.Barrier(4)

        def call() -> None:
            together.wait()
            post(client)
            together.wait()
            post(client)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert (len(server.connections), len(server.received)) == (4, 8)

    def test_a_forked_child_leaves_its_parents_alone(self, server: RawServer) -> None:
        client = SignedClient(server.url, KEY)
        post(client, b"parent")

        child = os.fork()
        if child == 0:
            os._exit(0 if post(client, b"child").status == 200 else 1)
        _, status = os.waitpid(child, 0)
        post(client, b"parent again")

        assert os.waitstatus_to_exitcode(status) == 0
        assert len(server.connections) == 2
        assert [received.body for received in server.received] == [b"parent", b"child", b"parent again"]

    def test_one_that_died_unseen_is_replaced(self) -> None:
        closed = threading.Event()

        def handle(connection: Connection) -> None:
            connection.read_request()
            connection.send(answer())
            connection.socket.shutdown(socket.SHUT_RDWR)
            closed.set()

        with raw_server(handle) as server:
            client = SignedClient(server.url, KEY)
            post(client)
            closed.wait(5)

            assert post(client).status == 200

    def test_an_answer_tells_when_it_may_be_to_a_second_sending(self) -> None:
        def dies_once(connection: Connection) -> None:
            if len(connection.server.connections) > 1:
                answering(answer("429 Slow down"))(connection)
                return
            connection.read_request()
            connection.send(answer())
            connection.read_request()

        with raw_server(dies_once) as server:
            client = SignedClient(server.url, KEY)
            answers = [post(client, body) for body in (b"first", b"second", b"third")]

        assert [(found.status, found.sent_twice) for found in answers] == [(200, False), (429, True), (429, False)]
        assert [received.body for received in server.received] == [b"first", b"second", b"second", b"third"]


class TestNotSent:
    def test_when_the_connection_is_refused(self) -> None:
        with raw_server(answering(answer())) as server:
            server.stop_listening()

            with pytest.raises(NotSent) as caught:
                post(SignedClient(server.url, KEY))

        assert caught.value.code == "connection_refused"

    def test_when_the_name_isnt_known(self) -> None:
        with pytest.raises(NotSent) as caught:
            post(SignedClient(f"http://{'x' * 64}.invalid", KEY))

        assert caught.value.code == "name_not_found"

    def test_when_no_connection_came_about_in_time(self) -> None:
        with ExitStack() as sockets:
            full = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            for _ in range(4):
                waiting = sockets.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())

            with pytest.raises(NotSent) as caught:
                post(SignedClient(f"http://127.0.0.1:{full.getsockname()[1]}", KEY), deadline_ms=200)

        assert caught.value.code == "connect_timeout"

    def test_when_the_server_isnt_whom_we_trust(self, certificate: Path) -> None:
        with tls_server(certificate) as server, pytest.raises(NotSent) as caught:
            post(SignedClient(server.url.replace("http://127.0.0.1", "https://localhost"), KEY))

        assert caught.value.code == "tls_failed"


class TestAnswerLost:
    def test_when_the_deadline_passes(self) -> None:
        def silent(connection: Connection) -> None:
            connection.read_request()
            connection.read_request()

        started = time.monotonic()

        failure = failure_of(silent, deadline_ms=200)

        assert isinstance(failure, AnswerLost)
        assert failure.code == "timeout"
        assert time.monotonic() - started > 0.15

    def test_when_the_deadline_passes_while_bytes_still_drip(self) -> None:
        def drip(connection: Connection) -> None:
            connection.read_request()
            for byte in answer(body=b"x" * 2_000):
                connection.send(bytes([byte]))
                time.sleep(0.02)

        started = time.monotonic()

        failure = failure_of(drip, deadline_ms=300)

        assert isinstance(failure, AnswerLost)
        assert failure.code == "timeout"
        assert time.monotonic() - started < 20  # all of it would take 40

    def test_when_the_connection_is_closed_instead(self) -> None:
        failure = failure_of(lambda connection: (connection.read_request(), None)[1])

        assert isinstance(failure, AnswerLost)
        assert failure.code == "connection_lost"

    def test_when_the_connection_is_reset(self) -> None:
        def reset(connection: Connection) -> None:
            connection.read_request()
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")

        failure = failure_of(reset)

        assert isinstance(failure, AnswerLost)
        assert failure.code == "connection_lost"

    def test_when_the_body_is_cut_off(self) -> None:
        failure = failure_of(read_then_send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"))

        assert isinstance(failure, AnswerLost)
        assert failure.code == "connection_lost"

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(answer(body=b"x" * (ANSWER_BYTES_MAX + 1)), id="a length beyond the cap"),
            pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (ANSWER_BYTES_MAX + 1), id="a body that goes on and on"),
            pytest.param(b"220 mail.example ESMTP\r\n", id="another protocol"),
        ],
    )
    def test_when_it_cant_be_read(self, data: bytes) -> None:
        failure = failure_of(read_then_send(data))

        assert isinstance(failure, AnswerLost)
        assert failure.code == "unreadable_body"

    def test_when_a_kept_connection_dies_with_the_request_and_a_new_one_is_refused(self) -> None:
        """A second sending by libcurl, on a new connection; its refusal is no evidence about the
        first.
        """

        def dies(connection: Connection) -> None:
            connection.read_request()
            connection.send(answer())
            connection.read_request()
            connection.server.stop_listening()

        with raw_server(dies) as server:
            client = SignedClient(server.url, KEY)
            post(client)

            with pytest.raises(AnswerLost) as caught:
                post(client, b"maybe applied")

            assert caught.value.code == "connection_lost"
            assert server.received[-1].body == b"maybe applied"


class TestTls:
    def test_trusts_the_certificates_of_this_machine(self, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

        with tls_server(certificate) as server:
            found = post(SignedClient(server.url.replace("http://127.0.0.1", "https://localhost"), KEY))

        assert found.status == 200

    def test_sends_nothing_to_who_shows_another_certificate(self, certificate: Path) -> None:
        with tls_server(certificate) as server, pytest.raises(NotSent, match="tls_failed"):
            post(SignedClient(server.url.replace("http://127.0.0.1", "https://localhost"), KEY))

    def test_sends_nothing_to_who_shows_the_certificate_of_another_name(self, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

        with tls_server(certificate) as server, pytest.raises(NotSent, match="tls_failed"):
            post(SignedClient(server.url.replace("http:", "https:"), KEY))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that nobody signed, with its private key in the same file."""
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(file), "-out", str(file.with_suffix(".crt"))]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + file.with_suffix(".crt").read_bytes())
    return file


def tls_server(certificate: Path) -> AbstractContextManager[RawServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    def handle(connection: Connection) -> None:
        connection.socket = context.wrap_socket(connection.socket, server_side=True)
        answering(answer())(connection)

    return raw_server(handle)
