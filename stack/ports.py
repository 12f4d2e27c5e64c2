"""Ports on the loopback address: found once, remembered by the launcher."""

import random
import socket
from pathlib import Path

from stack.errors import WrongVariable

LOOPBACK = "127.0.0.1"
LOWEST = 15_000
HIGHEST = 65_535
EPHEMERAL_LOWEST = 32_768  # Linux's default, where /proc doesn't say


def port_of(variable: str, text: str) -> int:
    """The port that a variable names. Raises WrongVariable."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= HIGHEST:
        raise WrongVariable(f"{variable} is {text!r}: set it to a port from 1 to {HIGHEST}")
    return int(text)


def ephemeral_start() -> int:
    """The first port that the kernel gives to outgoing connections.

    Ours lie below: a client that reconnects to a dead server's port could otherwise be given that
    very port and talk to itself.
    """
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return EPHEMERAL_LOWEST


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection in TIME_WAIT doesn't hinder a server
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def find_free(besides: set[int]) -> int:
    """A free port that isn't one of `besides`; random, so that two checkouts rarely meet."""
    highest = max(ephemeral_start(), LOWEST + 1_000)
    while True:
        port = random.randrange(LOWEST, highest)  # noqa: S311 - not a secret
        if port not in besides and is_free(port):
            return port
