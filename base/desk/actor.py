"""Who acts at this moment, and from where: for what is recorded far below the page."""

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

_request: ContextVar[HttpRequest | None] = ContextVar("desk_request", default=None)
_other: ContextVar[str] = ContextVar("desk_other", default="")


@dataclass(frozen=True, slots=True)
class Actor:
    """A user of the desk; without a key, a command on the host or the identity provider."""

    name: str
    id: int | None = None
    address: str = ""


def remember_request(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware: the request whose user acts while it is answered."""

    def answer(request: HttpRequest) -> HttpResponse:
        token = _request.set(request)
        try:
            return get_response(request)
        finally:
            _request.reset(token)

    return answer


@contextmanager
def acting_as(name: str) -> Iterator[None]:
    """What is done inside is done by somebody who is no user: the identity provider."""
    token = _other.set(name)
    try:
        yield
    finally:
        _other.reset(token)


def current() -> Actor:
    """Who acts."""
    request = _request.get()
    address = address_of(request)
    if _other.get():
        return Actor(_other.get(), None, address)
    if request is None:
        return Actor(f"host: {_account()}")
    user: Any = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return Actor("", None, address)
    return Actor(user.get_username(), user.pk, address)


def address_of(request: HttpRequest | None, _credentials: object = None) -> str:
    """Where a request comes from. A client may write into `X-Forwarded-For` what it likes: only
    what our own proxies (PROXY_COUNT) appended counts.
    """
    if request is None:
        return ""
    chain = [one.strip() for one in request.META.get("HTTP_X_FORWARDED_FOR", "").split(",") if one.strip()]
    if settings.PROXY_COUNT and len(chain) >= settings.PROXY_COUNT:
        return str(chain[-settings.PROXY_COUNT])[:45]
    return str(request.META.get("REMOTE_ADDR", ""))[:45]


def _account() -> str:
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return "unknown"
