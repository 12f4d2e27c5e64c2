"""Reading requests: what can't be read is a 400 `invalid_request`, final when it came under a
key.
"""

import re
from functools import cache
from typing import Any, TypeVar, cast

import msgspec

from sandbox.operations import Call
from sandbox.problems import Problem, Rejection

KEY = re.compile(r"[\x21-\x7e]{1,200}", re.ASCII)
ORDER_ID = re.compile(r"[A-Za-z0-9_.\-]{1,64}", re.ASCII)
USER_ID = re.compile(r"[1-9][0-9]{0,19}", re.ASCII)
USER_ID_MAX = 2**64 - 1  # BIGINT UNSIGNED
T = TypeVar("T")


class _Named(msgspec.Struct):
    """What a call must have before anything can be stored under its key."""

    key: str
    order_id: str


_NAMED = msgspec.json.Decoder(_Named)


@cache
def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def decode(raw: bytes, kind: type[T]) -> T:
    """The body as `kind`; a `Rejection` that names the field otherwise."""
    try:
        return cast("T", _decoder(cast("Any", kind)).decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Rejection(400, "invalid_request", str(error)) from error


def identify(counterparty: str, raw: bytes, header_key: str | None) -> Call:
    """The call's names. Without a key that can be read, or with two that differ, it is refused and
    nothing is stored.
    """
    try:
        named = _NAMED.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, "invalid_request", f"the body can't be read: {error}") from error
    if KEY.fullmatch(named.key) is None or ORDER_ID.fullmatch(named.order_id) is None:
        raise Problem(400, "invalid_request", "key and order_id are short texts of printable ASCII without spaces")
    if named.key != header_key:
        raise Problem(400, "invalid_request", "the header Idempotency-Key and the body's field key must be there and be equal")
    return Call(counterparty, named.key, named.order_id, raw)


def require_user_id(user_id: str) -> str:
    if USER_ID.fullmatch(user_id) is None or int(user_id) > USER_ID_MAX:
        raise Rejection(400, "invalid_request", f"{user_id!r} is not a user id: a decimal string from 1 to {USER_ID_MAX}")
    return user_id
