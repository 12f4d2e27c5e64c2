"""What the settings take for an address, and where it leads. No value is ever shown: it may hold a
password.
"""

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

import dj_database_url


def is_web_address(text: str, *, query: bool = False) -> bool:
    """Whether signed calls can be made to it: http(s)://host[:port][/path], without user, password
    and fragment.
    """
    parts = split(text)
    return bool(
        parts
        and parts.scheme in {"http", "https"}
        and parts.hostname
        and "@" not in parts.netloc
        and not parts.fragment
        and (query or not parts.query)
        and not re.search(r"\s", text)
    )


def split(text: str) -> SplitResult | None:
    """The parts of an address; None where it or its port can't be read."""
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises where it is no port
    except ValueError:
        return None
    return parts


def is_broker_address(text: str) -> bool:
    """Whether Celery and our own client understand it: redis(s)://[[user]:password@]host[:port][/number]."""
    parts = split(text)
    return bool(parts and parts.scheme in {"redis", "rediss"} and parts.hostname and re.fullmatch(r"(/\d*)?", parts.path))


def are_servers(text: str) -> bool:
    """Whether it is host:port,host:port."""
    return all(re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}", server.strip()) for server in text.split(","))


def is_postgresql(text: str) -> bool:
    """Whether it is postgresql://…, with the name of a database."""
    parts = split(text)
    if not parts or parts.scheme not in {"postgres", "postgresql"}:
        return False
    try:
        return bool(dj_database_url.parse(text).get("NAME"))
    except (ValueError, KeyError, TypeError):
        return False


def is_loopback(host: str | None) -> bool:
    """Whether what is sent there stays on this machine."""
    if host in {None, "", "localhost"}:
        return host == "localhost"
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def is_plain_http(text: str) -> bool:
    """Whether what is sent there can be read and changed on its way."""
    parts = split(text)
    return parts is not None and parts.scheme == "http" and not is_loopback(parts.hostname)


def hosts_of(servers: list[str]) -> list[str]:
    """The hosts of host:port texts."""
    return [server.rpartition(":")[0].strip("[]") for server in servers]
