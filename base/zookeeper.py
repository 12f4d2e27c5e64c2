"""ZooKeeper's address, read from LEADERSHIP_URL and checked with the other settings, and the client
for it.

A client's threads don't survive a fork, and its socket would be shared with the parent: a client
belongs to the process that started it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kazoo.client import KazooClient
from kazoo.security import make_digest_acl

SCHEME: Final = "zk://"
EXAMPLE: Final = "zk://host:2181,host:2181/acceptance"
SESSION_SECONDS: Final = (1.0, 60.0)  # a shorter session ends at any pause; a longer one leaves the service without a leader for as long
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_ROOT = re.compile(r"(/[A-Za-z0-9._-]+)+")
RETRIES: Final = {"max_tries": -1, "delay": 0.05, "backoff": 2, "max_delay": 1.0}  # of connecting: for ever, at least once a second


class WrongAddress(ValueError):  # noqa: N818 - named by what it tells
    """The settings can't be read, or contradict each other: `args` has a text for each problem,
    with what to do.
    """


class OtherProcess(RuntimeError):  # noqa: N818 - named by what it tells
    """A client was started before a fork and used after it: an error in our code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZooKeeperAddress:
    """A ZooKeeper, and the node below which everything of this service lies. Raises
    WrongAddress.
    """

    servers: tuple[str, ...]  # host:port
    root: str
    session_seconds: float
    username: str = ""
    password: str = field(default="", repr=False)
    cafile: str = ""  # set: only servers whose certificates this authority signed, for their names
    certfile: str = ""
    keyfile: str = ""
    key_password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise WrongAddress(*problems)

    def _problems(self) -> Iterator[str]:
        low, high = SESSION_SECONDS
        if not low <= self.session_seconds <= high:
            yield f"ZOOKEEPER_SESSION_SECONDS is {self.session_seconds}: set it to a number from {low:.0f} to {high:.0f}"
        if bool(self.username) != bool(self.password):
            missing, given = ("ZOOKEEPER_PASSWORD", "ZOOKEEPER_USER") if self.username else ("ZOOKEEPER_USER", "ZOOKEEPER_PASSWORD")
            yield f"{missing} is not set, but {given} is: set both, or none"
        if ":" in self.username:
            yield "ZOOKEEPER_USER has a colon in it, which ZooKeeper takes for the end of the name: choose another name"
        yield from self._tls_problems()

    def _tls_problems(self) -> Iterator[str]:
        files = {"ZOOKEEPER_SSL_CAFILE": self.cafile, "ZOOKEEPER_SSL_CERTFILE": self.certfile, "ZOOKEEPER_SSL_KEYFILE": self.keyfile}
        for name, path in files.items():
            if path and not Path(path).is_file():
                yield f"{name} is {path!r}: there is no such file"
        if bool(self.certfile) != bool(self.keyfile):
            missing, given = ("ZOOKEEPER_SSL_KEYFILE", "ZOOKEEPER_SSL_CERTFILE")[:: 1 if self.certfile else -1]
            yield f"{missing} is not set, but {given} is: set both, or none"
        if (self.certfile or self.keyfile) and not self.cafile:
            yield "ZOOKEEPER_SSL_CERTFILE is set, but ZOOKEEPER_SSL_CAFILE isn't: set it to the authority of ZooKeeper's certificates"

    @property
    def tls(self) -> bool:
        """Whether we ask who the servers are."""
        return bool(self.cafile)

    def path(self, *names: str) -> str:
        """The path of a node of ours."""
        return "/".join((self.root, *names))


def parse_address(url: str, *, session_seconds: float, username: str = "", password: str = "", **tls: str) -> ZooKeeperAddress | None:
    """The address that LEADERSHIP_URL and ZOOKEEPER_… name; None where it is empty: leadership is
    then a lease in PostgreSQL. `tls`: cafile, certfile, keyfile, key_password. Raises WrongAddress.
    """
    if not url:
        if any(tls.values()):
            raise WrongAddress(f"ZOOKEEPER_SSL_CAFILE or its like is set, but LEADERSHIP_URL isn't: set it as in {EXAMPLE}")
        if username or password:
            raise WrongAddress(f"ZOOKEEPER_USER or ZOOKEEPER_PASSWORD is set, but LEADERSHIP_URL isn't: set it as in {EXAMPLE}")
        return None
    if "@" in url:
        raise WrongAddress("LEADERSHIP_URL holds credentials: set ZOOKEEPER_USER and ZOOKEEPER_PASSWORD instead")
    if not url.startswith(SCHEME):
        raise WrongAddress(f"LEADERSHIP_URL is {url!r}: set it as in {EXAMPLE}, or to nothing for a lease in PostgreSQL")
    servers, slash, root = url.removeprefix(SCHEME).partition("/")
    if not slash or not _ROOT.fullmatch(f"/{root}") or root.split("/")[0] == "zookeeper":
        raise WrongAddress(f"LEADERSHIP_URL is {url!r}: it names no node to keep ours below; set it as in {EXAMPLE}")
    return ZooKeeperAddress(
        servers=tuple(_server(server, url) for server in servers.split(",")),
        root=f"/{root}",
        session_seconds=session_seconds,
        username=username,
        password=password,
        **tls,
    )


def _server(text: str, url: str) -> str:
    found = _SERVER.fullmatch(text)
    if not found or not 0 < int(found[2]) < 2**16:
        raise WrongAddress(f"LEADERSHIP_URL is {url!r}: {text!r} is no host:port; set it as in {EXAMPLE}")
    return text


def make_client(address: ZooKeeperAddress) -> KazooClient:
    """A client that isn't started yet: call `start_async` in the process that uses it. It
    reconnects for ever.

    With credentials it authenticates, and gives access to the nodes that it creates to their owner
    alone.
    """
    user = address.username
    return _Client(
        hosts=",".join(address.servers),
        timeout=address.session_seconds,
        default_acl=[make_digest_acl(user, address.password, all=True)] if user else None,
        auth_data=[("digest", f"{user}:{address.password}")] if user else None,
        connection_retry=RETRIES,
        use_ssl=address.tls,
        verify_certs=address.tls,
        check_hostname=address.tls,
        ca=address.cafile or None,
        certfile=address.certfile or None,
        keyfile=address.keyfile or None,
        keyfile_password=address.key_password or None,
    )


class _Client(KazooClient):  # type: ignore[misc]  # kazoo has no types
    """Raises OtherProcess in a process that didn't start it."""

    _pid: int | None = None

    def start_async(self) -> Any:
        self._check()
        self._pid = os.getpid()
        return super().start_async()

    def stop(self) -> None:
        self._check()
        super().stop()

    def _call(self, request: Any, async_object: Any) -> Any:
        self._check()
        return super()._call(request, async_object)

    def _check(self) -> None:
        if self._pid not in {None, os.getpid()}:
            raise OtherProcess(f"this client was started in process {self._pid}: make one of your own after a fork")
