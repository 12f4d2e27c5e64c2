"""A real ZooKeeper without Docker, for tests and benchmarks: Debian's jars under plain `java`, on
private ports of the loopback address.

`python -m stack.zookeeper` says whether one can run here; with `--install` it fetches the Debian
packages first, as root. Exit code 0: it can; 3: it can't, and the reason on stderr.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from stack.errors import StackError
from stack.ports import LOOPBACK, find_free
from stack.processes import Identity, start_detached, stop, wait_until
from stack.rundir import tail

JARS = Path("/usr/share/java")  # where Debian puts them; zookeeper.jar names the others in its manifest
JAR = JARS / "zookeeper.jar"
PACKAGES = {"java": "default-jre-headless", "jar": "libzookeeper-java"}  # not `zookeeper`, whose service would start with the machine
STANDALONE = "org.apache.zookeeper.server.ZooKeeperServerMain"
MEMBER = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
TICK_MS = 250  # half of the shortest session; sessions end on whole ticks
NO_FSYNC = "-Dzookeeper.forceSync=no"  # a test's data needn't survive a crash of the machine
START_SECONDS_MAX = 60.0
CANT_RUN = 3


def missing() -> str | None:
    """Why no ZooKeeper can run here, and what to do; None when one can."""
    needed = [PACKAGES["java"]] * (shutil.which("java") is None) + [PACKAGES["jar"]] * (not JAR.exists())
    return f"ZooKeeper isn't here: apt install {' '.join(needed)}" if needed else None


def install() -> str | None:
    """Installs what is missing with apt, where we are root and it is there. Returns what `missing`
    says then.
    """
    if missing() is None or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return missing()
    wanted = [package for what, package in PACKAGES.items() if what == "jar" or shutil.which("java") is None]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update", "--quiet=2"], ["install", "--yes", "--quiet=2", "--no-install-recommends", *wanted]):
        ended = subprocess.run(["apt-get", *words], env=environment, stdout=sys.stderr, check=False)
        if ended.returncode:
            return f"{missing()} (apt-get {words[0]} ended with {ended.returncode})"
    return missing()


@dataclass(frozen=True)
class Peers:
    """An ensemble as one of its members sees it: its own number, and (quorum port, election port,
    client port) of each by number.
    """

    number: int
    ports: Mapping[int, tuple[int, int, int]]


class ZooKeeper:
    """One server, alone or of an ensemble. Its folder holds data, configuration and log."""

    def __init__(self, folder: Path, port: int | None = None, peers: Peers | None = None) -> None:
        self.folder = folder
        self.port = port or find_free(set())
        self._peers = peers
        self._identity: Identity | None = None

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Starts it and waits until the process listens; a member of an ensemble serves as soon as
        most of them run. Raises StackError.
        """
        if reason := missing():
            raise StackError(reason)
        self._configure()
        process = start_detached(self._command(), log=self.folder / "log", cwd=self.folder)
        self._identity = Identity.of(process.pid, str(self.folder))
        wait_until(lambda: self._is_up() or process.poll() is not None, START_SECONDS_MAX)
        if not self._is_up():
            self.kill()
            raise StackError(f"ZooKeeper didn't start; the end of {self.folder / 'log'}:\n{tail(self.folder / 'log')}")

    def serves(self) -> bool:
        """Whether it answers clients: alone, or as a member of a quorum."""
        return self.mode() is not None

    def mode(self) -> str | None:
        """`standalone`, `leader` or `follower`; None while it doesn't serve."""
        lines = self._command_answer(b"srvr").splitlines()
        return next((line.removeprefix("Mode: ") for line in lines if line.startswith("Mode: ")), None)

    def stop(self) -> None:
        """Ends it as an operator would."""
        if self._identity:
            stop(self._identity, how=signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        if self._identity:
            stop(self._identity, how=signal.SIGKILL)

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, until `thaw`."""
        self._process().suspend()

    def thaw(self) -> None:
        self._process().resume()

    def _is_up(self) -> bool:
        return self._command_answer(b"ruok") == "imok" if self._peers else self.serves()

    def _process(self) -> psutil.Process:
        process = self._identity.find() if self._identity else None
        if process is None:
            raise StackError("this ZooKeeper doesn't run")
        return process

    def _configure(self) -> None:
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        lines = [
            f"tickTime={TICK_MS}",
            f"dataDir={data}",
            f"clientPort={self.port}",
            f"clientPortAddress={LOOPBACK}",
            "maxSessionTimeout=60000",
            "maxClientCnxns=0",
            "admin.enableServer=false",
            "4lw.commands.whitelist=ruok,srvr",
        ]
        if self._peers:
            (data / "myid").write_text(str(self._peers.number))
            lines += ["initLimit=40", "syncLimit=8"]
            lines += [f"server.{number}={LOOPBACK}:{quorum}:{election}" for number, (quorum, election, _) in self._peers.ports.items()]
        (self.folder / "zoo.cfg").write_text("".join(f"{line}\n" for line in lines))

    def _command(self) -> Sequence[str]:
        options = ["-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", NO_FSYNC]
        classpath = f"{JAR}:{JARS / 'slf4j-simple.jar'}"
        return ["java", *options, "-cp", classpath, MEMBER if self._peers else STANDALONE, str(self.folder / "zoo.cfg")]

    def _command_answer(self, command: bytes) -> str:
        """The answer to one of its four-letter commands; empty when there is none."""
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
            connection.sendall(command)
            return b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        return ""


class Ensemble:
    """Three ZooKeepers that replicate each other."""

    def __init__(self, folder: Path) -> None:
        taken: set[int] = set()
        ports = {}
        for number in (1, 2, 3):
            found = [_take(taken) for _ in range(3)]
            ports[number] = (found[0], found[1], found[2])
        self.servers = [ZooKeeper(folder / str(number), ports[number][2], Peers(number, ports)) for number in ports]

    def start(self) -> None:
        """Starts all and waits until each serves. Raises StackError."""
        for server in self.servers:
            server.start()
        if not wait_until(lambda: all(server.serves() for server in self.servers), START_SECONDS_MAX):
            raise StackError("the ZooKeepers find no leader among themselves")

    def leader(self) -> ZooKeeper:
        """The server that leads the others now. Raises StackError."""
        found = [server for server in self.servers if server.mode() == "leader"]
        if not found:
            raise StackError("no ZooKeeper leads")
        return found[0]

    def stop(self) -> None:
        for server in self.servers:
            server.kill()


def _take(taken: set[int]) -> int:
    port = find_free(taken)
    taken.add(port)
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stack.zookeeper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="fetch the Debian packages that are missing, as root")
    return parser


def main(arguments: list[str]) -> int:
    reason = install() if _parser().parse_args(arguments).install else missing()
    if reason:
        print(reason, file=sys.stderr)  # noqa: T201 - a command's output
    return CANT_RUN if reason else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
