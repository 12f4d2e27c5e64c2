"""SASL authentication with a Kafka broker, made by hand before the client makes its own: the client
doesn't report a refusal and retries for ever.

Kafka's protocol for it: SaslHandshake names the mechanism, SaslAuthenticate carries the mechanism's
own messages (RFC 4616, RFC 5802).
"""

import socket
import struct
from typing import Final

from kafka import errors as kafka_errors
from kafka.net.sasl import get_sasl_mechanism

from base.kafka import KafkaSecurity

CLIENT_ID: Final = b"acceptance-preflight"
HANDSHAKE, AUTHENTICATE = 17, 36  # keys of the requests
UNSUPPORTED_MECHANISM: Final = 33
ANSWER_BYTES_MAX: Final = 100_000


def authenticate_sasl(connection: socket.socket, security: KafkaSecurity) -> None:
    """Authenticates on a fresh connection. Raises UnsupportedSaslMechanismError or
    SaslAuthenticationFailedError when the broker refuses, OSError when the connection breaks.
    """
    try:
        _authenticate(connection, security)
    except struct.error as error:
        raise ConnectionRefusedError("the server doesn't speak Kafka's protocol") from error


def _authenticate(connection: socket.socket, security: KafkaSecurity) -> None:
    answer = _request(connection, HANDSHAKE, 1, _text(security.mechanism.encode()))
    code = _code(answer)
    if code == UNSUPPORTED_MECHANISM:
        raise kafka_errors.UnsupportedSaslMechanismError(f"{security.mechanism} isn't one of the broker's mechanisms")
    if code:
        raise ConnectionRefusedError(f"the broker accepts no SASL authentication on this listener: {kafka_errors.for_code(code).__name__}")
    mechanism = get_sasl_mechanism(security.mechanism)(host="", **security.client_options())
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        answer = _request(connection, AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        _check(_code(answer), answer)
        try:
            mechanism.receive(_token(answer))
        except (ValueError, KeyError) as error:
            raise kafka_errors.SaslAuthenticationFailedError(f"the broker's own signature is wrong: it doesn't know the password: {error}") from error


def _check(code: int, answer: bytes) -> None:
    if code:
        (length,) = struct.unpack_from(">h", answer, 2)
        message = answer[4 : 4 + length].decode(errors="replace") if length > 0 else ""
        raise kafka_errors.SaslAuthenticationFailedError(message or kafka_errors.for_code(code).__name__)


def _token(answer: bytes) -> bytes:
    """The mechanism's message, which follows the code and the error message."""
    (message_length,) = struct.unpack_from(">h", answer, 2)
    start = 4 + max(message_length, 0)
    (length,) = struct.unpack_from(">i", answer, start)
    return answer[start + 4 : start + 4 + max(length, 0)]


def _request(connection: socket.socket, key: int, version: int, body: bytes) -> bytes:
    """The answer's body, its correlation id taken off."""
    request = struct.pack(">hhi", key, version, key) + _text(CLIENT_ID) + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    (length,) = struct.unpack(">i", _receive(connection, 4))
    if not 6 <= length <= ANSWER_BYTES_MAX:  # noqa: PLR2004 - the correlation id and a code at least
        raise ConnectionRefusedError("the server doesn't speak Kafka's protocol")
    return _receive(connection, length)[4:]


def _receive(connection: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        part = connection.recv(length - len(received))
        if not part:
            raise ConnectionResetError("the broker closed the connection during authentication")
        received += part
    return received


def _code(answer: bytes) -> int:
    code: int = struct.unpack_from(">h", answer)[0]
    return code


def _text(value: bytes) -> bytes:
    return struct.pack(">h", len(value)) + value
