"""Signed HTTP calls, each with one total deadline.

    HttpError
    ├── NotSent      nothing of the request has left us: it was surely not applied
    └── AnswerLost   it may have been received and applied; nobody knows

On pycurl, because the client's own CPU is most of what a call costs us. Headers of answers aren't
collected: libcurl would call into Python once a line, and each of those calls may wait for the
interpreter lock; beside a busy thread that tripled the time of a call. What we need of them,
libcurl hands out afterwards.

When a kept-alive connection turns out to be dead before a byte of the answer came, libcurl sends
the request again on a new one, also a POST, and that can't be switched off. With idempotency keys
and stored bytes it is harmless; but neither a refusal of that second connection nor an answer to
the second sending says that the first wasn't applied. So `NotSent` also demands that no byte of a
request was written, and an answer tells when it may be one to a second sending.
"""

import os
import re
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import pycurl
from django.conf import settings

from base.signing import sign

ANSWER_BYTES_MAX: Final = 1 << 20  # no answer of our contracts comes near it; what is larger isn't ours
TARGET: Final = re.compile(r"/[!-\"$-~]*")  # visible ASCII without "#": libcurl sends it as it is, and the signature covers it
HEADER_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")  # no line breaks: a value must not become a header of its own

_UNCONNECTED: Final[dict[int, str]] = {
    pycurl.E_COULDNT_RESOLVE_HOST: "name_not_found",
    pycurl.E_COULDNT_CONNECT: "connection_refused",
    pycurl.E_OPERATION_TIMEDOUT: "connect_timeout",
    pycurl.E_SSL_CONNECT_ERROR: "tls_failed",
    pycurl.E_PEER_FAILED_VERIFICATION: "tls_failed",
    pycurl.E_SSL_CACERT_BADFILE: "tls_failed",
}
_LOST: Final[dict[int, str]] = {
    pycurl.E_OPERATION_TIMEDOUT: "timeout",
    pycurl.E_SEND_ERROR: "connection_lost",
    pycurl.E_RECV_ERROR: "connection_lost",
    pycurl.E_GOT_NOTHING: "connection_lost",
    pycurl.E_PARTIAL_FILE: "connection_lost",
    pycurl.E_COULDNT_CONNECT: "connection_lost",  # of the second sending; the first went out
    pycurl.E_FILESIZE_EXCEEDED: "unreadable_body",
    pycurl.E_UNSUPPORTED_PROTOCOL: "unreadable_body",  # what answers doesn't speak HTTP
    pycurl.E_FTP_WEIRD_SERVER_REPLY: "unreadable_body",  # of any protocol, whatever its name
}


class HttpError(Exception):
    """No answer came. `code` is a short word for metrics and tables, `detail` what libcurl said of
    it.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class NotSent(HttpError):  # noqa: N818 - named by what it tells
    """Nothing of the request has left us: it was surely not applied."""


class AnswerLost(HttpError):  # noqa: N818
    """The request may have been received and applied, and no usable answer to it came."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer. `content_type` is without its parameters, in lower case; `retry_after_s` is
    None where the header is absent.

    `sent_twice`: libcurl may have sent the request on a dead connection before; the answer then
    says nothing about that sending.
    """

    status: int
    content_type: str
    retry_after_s: int | None
    body: bytes
    sent_twice: bool = False


class SignedClient:
    """Calls one service under `base_url`, signing each request with `key`.

    Safe in threads and after a fork: every (process, thread) keeps a connection of its own alive.
    Redirects aren't followed, proxies of the environment and .netrc aren't used. Raises ValueError
    for a `base_url` that isn't plain http(s)://host[:port][/prefix].
    """

    def __init__(self, base_url: str, key: str) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(
                "this isn't the address of a service (it isn't shown, since it may hold a password): give http(s)://host[:port][/prefix]"
            )
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._prefix = parts.path.rstrip("/")
        self._key = key
        self._local = threading.local()

    def request(
        self,
        method: Literal["GET", "POST"],
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        deadline_ms: int,
        timestamp_ms: int,
    ) -> HttpAnswer:
        """Sends one request and returns the answer, whatever its status.

        `path` (and query) is taken as it is, percent-encoded by the caller. `deadline_ms` is total:
        connecting, sending, and reading the last byte. `timestamp_ms` is signed and sent. Raises
        NotSent or AnswerLost.
        """
        target = self._prefix + path
        _check_sendable(target, headers or {}, deadline_ms)
        signature = sign(self._key, method, target, timestamp_ms, body)
        lines = ["Expect:", "Content-Type: application/json", f"X-Timestamp: {timestamp_ms}", f"X-Signature: {signature}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return self._connection().exchange(method, self._origin, target, body, lines, deadline_ms)

    def _connection(self) -> "_Connection":
        held: _Connection | None = getattr(self._local, "connection", None)
        if held is not None and held.pid != os.getpid():
            _inherited.append(held)
            held = None
        if held is None:
            held = self._local.connection = _Connection()
        return held


class _Connection:
    """One libcurl handle with its kept-alive connection; never shared between threads."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._has_answered = False
        self._chunks: list[bytes] = []
        self._curl: Any = pycurl.Curl()
        for option, value in _OPTIONS.items():
            self._curl.setopt(option, value)
        for option, location in _trust_store().items():
            self._curl.setopt(option, location)
        self._curl.setopt(pycurl.USERAGENT, f"acceptance-service/{settings.VERSION} ({settings.ENVIRONMENT})")
        self._curl.setopt(pycurl.WRITEFUNCTION, self._chunks.append)

    def exchange(self, method: str, origin: str, target: str, body: bytes, lines: list[str], deadline_ms: int) -> HttpAnswer:
        """One request and its answer. Raises NotSent or AnswerLost."""
        curl = self._curl
        self._chunks.clear()
        curl.setopt(pycurl.URL, origin)
        curl.setopt(pycurl.REQUEST_TARGET, target)  # what was signed is what is sent; a URL's path would be normalised
        curl.setopt(pycurl.HTTPHEADER, lines)
        curl.setopt(pycurl.TIMEOUT_MS, deadline_ms)
        if method == "POST":
            curl.setopt(pycurl.POST, 1)
            curl.setopt(pycurl.POSTFIELDS, body)
        else:
            curl.setopt(pycurl.HTTPGET, 1)
        try:
            curl.perform()
        except pycurl.error as error:
            raise self._judge(*error.args) from error
        return self._answer()

    def _answer(self) -> HttpAnswer:
        media_type: str = self._curl.getinfo(pycurl.CONTENT_TYPE) or ""
        reconnected = self._has_answered and self._curl.getinfo(pycurl.NUM_CONNECTS) > 0
        self._has_answered = True
        return HttpAnswer(
            status=self._curl.getinfo(pycurl.RESPONSE_CODE),
            content_type=media_type.partition(";")[0].strip().lower(),
            retry_after_s=self._curl.getinfo(pycurl.RETRY_AFTER) or None,
            body=b"".join(self._chunks),
            sent_twice=reconnected,
        )

    def _judge(self, code: int, detail: str) -> HttpError:
        """When in doubt, the answer was lost. REQUEST_SIZE counts the bytes written in this
        transfer, over all its connections.
        """
        nothing_written = self._curl.getinfo(pycurl.REQUEST_SIZE) == 0
        in_doubt = code == pycurl.E_OPERATION_TIMEDOUT and self._curl.getinfo(pycurl.LOCAL_PORT) > 0  # there was a connection
        if code in _UNCONNECTED and nothing_written and not in_doubt:
            return NotSent(_UNCONNECTED[code], detail)
        return AnswerLost(_LOST.get(code, "transfer_failed"), detail)


_inherited: Final[list[_Connection]] = []  # a forked child keeps its parent's handles untouched: closing one would end the parent's session

_OPTIONS: Final[dict[int, Any]] = {
    pycurl.NOSIGNAL: 1,  # signals and threads don't mix
    pycurl.TCP_NODELAY: 1,
    pycurl.TCP_KEEPALIVE: 1,
    pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
    pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
    pycurl.SSLVERSION: pycurl.SSLVERSION_TLSv1_2,  # or newer
    pycurl.SSL_VERIFYPEER: 1,
    pycurl.SSL_VERIFYHOST: 2,  # the certificate is for that very name
    pycurl.FOLLOWLOCATION: 0,
    pycurl.PROXY: "",
    pycurl.NETRC: pycurl.NETRC_IGNORED,
    pycurl.MAXFILESIZE: ANSWER_BYTES_MAX,
}


def _trust_store() -> dict[int, str]:
    """Where this machine keeps its certificates (also SSL_CERT_FILE and SSL_CERT_DIR): the wheel's
    libcurl doesn't know.
    """
    paths = ssl.get_default_verify_paths()
    found = {pycurl.CAINFO: paths.cafile, pycurl.CAPATH: paths.capath}
    return {option: path for option, path in found.items() if path}


def _check_sendable(target: str, headers: Mapping[str, str], deadline_ms: int) -> None:
    """Raises NotSent for what can't be put into a request as it is. ValueError: libcurl would take
    a deadline of 0 for none.
    """
    if deadline_ms < 1:
        raise ValueError(f"a deadline of {deadline_ms} ms leaves no time to call")
    if not TARGET.fullmatch(target):
        raise NotSent("request_unsendable", f"the target {target!r} needs percent-encoding")
    for name, value in headers.items():
        if not HEADER_VALUE.fullmatch(value):
            raise NotSent("request_unsendable", f"the header {name} can't carry {value!r}")
