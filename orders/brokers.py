"""Kafka's servers, asked by hand whether they are there: the client's constructor would leave its own connections open where none is."""

import socket
from collections.abc import Sequence


def knock(servers: Sequence[str], milliseconds_max: int) -> None:
    """Raises OSError where none of the servers ("host:port") takes a connection within so long each."""
    for server in servers:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=milliseconds_max / 1000).close()
        except OSError:
            continue
        return
    raise ConnectionRefusedError(f"no connection to any of {', '.join(servers)}")
