"""Connectivity check: whether a Kafka server accepts a connection, with TLS and credentials where
the settings demand them, before the client connects.

It is written by hand because kafka-python would leave its own sockets open where no server is, and
would retry a certificate that it doesn't trust, and credentials that are refused, for ever; an
operator needs one clear line instead.
"""

import socket
import ssl
from collections.abc import Sequence

from django.conf import settings

from orders.stream.sasl import authenticate_sasl


class BrokerNotTrusted(Exception):  # noqa: N818 - named by what it reports
    """The TLS handshake failed, or our own certificates can't be read: what happened, and which
    settings to check.
    """


def advice() -> str:
    """What to do if Kafka is unavailable. Some brokers close the connection when they refuse
    credentials, which looks like a network error.
    """
    fix = "is it up, and are its address and port right? Retrying is harmless"
    if settings.KAFKA_SECURITY.authenticated:
        fix += "; if it stays unavailable, check KAFKA_SASL_MECHANISM, KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, which may be refused"
    else:
        fix += "; if it stays unavailable, does it want credentials or TLS? See KAFKA_SECURITY_PROTOCOL"
    return fix


def check_connectivity(servers: Sequence[str], milliseconds_max: int) -> None:
    """Connects to the first of the servers ("host:port") that accepts a connection within
    `milliseconds_max`. Raises OSError if none does, BrokerNotTrusted if we don't trust it,
    SaslAuthenticationFailedError or UnsupportedSaslMechanismError if it refuses our credentials.
    """
    last_error: OSError = ConnectionRefusedError("no servers are named")
    context = _tls() if settings.KAFKA_SECURITY.encrypted else None
    for server in servers:
        try:
            _connect(server, milliseconds_max / 1000, context)
        except ssl.SSLCertVerificationError as error:
            fix = "look at KAFKA_SSL_CAFILE, KAFKA_SSL_CERTFILE and KAFKA_SECURITY_PROTOCOL, and at the name in the broker's certificate"
            raise BrokerNotTrusted(f"no TLS with {server}: {error.reason or error}: {fix}") from error
        except OSError as error:
            last_error = error
            continue
        return
    raise ConnectionRefusedError(f"no connection to any of {', '.join(servers)}: {last_error}")


def _connect(server: str, seconds_max: float, context: ssl.SSLContext | None) -> None:
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    with socket.create_connection((host, int(port)), timeout=seconds_max) as connection:
        channel = connection if context is None else context.wrap_socket(connection, server_hostname=host)
        with channel:
            if settings.KAFKA_SECURITY.authenticated:
                authenticate_sasl(channel, settings.KAFKA_SECURITY)


def _tls() -> ssl.SSLContext:
    security = settings.KAFKA_SECURITY
    try:
        context = ssl.create_default_context(cafile=security.cafile or None)
        if security.certfile:
            context.load_cert_chain(security.certfile, security.keyfile or None, security.key_password or None)
    except OSError as error:  # ssl.SSLError is one
        raise BrokerNotTrusted(f"KAFKA_SSL_CAFILE, KAFKA_SSL_CERTFILE or KAFKA_SSL_KEYFILE can't be read: {error}") from error
    return context
