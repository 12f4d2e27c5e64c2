"""Errors as `application/problem+json`, and the plain value in which every answer travels to the
socket.

Problem             an answer that says no; nothing is stored
└── Rejection       final: stored under the idempotency key, given again byte for byte
                    (docs/contracts/README.md, clause 3.4)
"""

from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

DEFAULT_CODES = {
    400: "invalid_request",
    401: "signature_invalid",
    403: "forbidden",
    404: "account_unknown",
    409: "in_progress",
    410: "contract_closed",
    422: "key_reused",
    429: "too_many_requests",
    500: "internal_error",
    502: "bad_gateway",
    503: "unavailable",
    504: "gateway_timeout",
}
FINAL_STATUSES = (400, 404, 410)


class Answer(NamedTuple):
    status: int
    body: bytes
    retry_after_seconds: int | None = None

    @property
    def content_type(self) -> bytes:
        return b"application/json" if self.status < HTTPStatus.BAD_REQUEST else b"application/problem+json"


def ok(content: Any, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(content))


class Problem(Exception):  # noqa: N818 the word of RFC 9457
    """An answer that is not a success; `code` is what callers decide on, `detail` is for people."""

    def __init__(self, status: int, code: str, detail: str, *, retry_after_seconds: int | None = None, scope: str = "") -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds
        self.scope = scope

    def answer(self) -> Answer:
        content = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.scope:
            content["scope"] = self.scope
        return Answer(self.status, msgspec.json.encode(content), self.retry_after_seconds)


class Rejection(Problem):
    """A final no: the same key gets the same bytes for as long as keys are kept."""
