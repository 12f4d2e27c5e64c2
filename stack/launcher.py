"""Starts and stops the embedded servers: one of each kind that the environment doesn't name. Ports
and processes are remembered in the run folder.

Needs no Django, so that tests can start the servers before settings are read.
"""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError
from stack.kafka import Kafka
from stack.ports import LOOPBACK, find_free, is_free, port_of
from stack.postgres import Postgres
from stack.processes import Identity, start_detached, stop, strays, wait_until
from stack.rundir import Memory, RunDir, tail
from stack.server import Server
from stack.valkey import Valkey

Kind = type[Postgres] | type[Valkey] | type[Kafka]
SERVERS: tuple[Kind, ...] = (Postgres, Valkey, Kafka)
COUNTERPARTIES = {"COUNTER_URL": "counter", "FUND_URL": "fund", "TRADING_URL": "trading"}
SERVICE_PORTS = {"SANDBOX_PORT": "sandbox", "WEB_PORT": "web"}
START_SECONDS_MAX = 60.0
STARTS_MAX = 3  # a port may be taken meanwhile, or a killed PostgreSQL's children may still use its data
START_PAUSE_SECONDS = 0.5
PORT_SECONDS_MAX = 3.0  # a killed server's threads may hold its port for a moment; its clients know only the old port


@dataclass(frozen=True)
class ServerStatus:
    """`state`: up, silent (runs, but doesn't answer), down, or named (the environment names
    another; `url` is then left out).
    """

    name: str
    state: str
    url: str | None = None
    pid: int | None = None


class Stack:
    """The servers of one run folder. `environ` decides which kinds are ours to start."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.run_dir = RunDir(folder)
        self._environ = environ
        ours = self.run_dir.read_env()  # settings.py puts these into the environment of every command
        self._named = {name for name, value in environ.items() if value and value != ours.get(name)}

    def up(self) -> dict[str, str]:
        """Starts what is down, waits until everything answers, writes `stack.env` and returns its
        variables. Raises StackError.
        """
        with self.run_dir.locked():
            memory = self.run_dir.recall()
            self._assign_ports(memory)
            kinds = [kind for kind in SERVERS if not self.is_named(kind.variable)]
            with ThreadPoolExecutor(max_workers=len(SERVERS)) as pool:
                starts = [pool.submit(self._ensure, kind, memory) for kind in kinds]
            self.run_dir.remember(memory)
            for start in starts:
                start.result()
            variables = self._variables(memory)
            self.run_dir.write_env(variables)
            return variables

    def down(self) -> None:
        """Stops every server and forgets `stack.env`; ports and data stay."""
        with self.run_dir.locked():
            memory = self.run_dir.recall()
            with ThreadPoolExecutor(max_workers=len(SERVERS)) as pool:
                stops = [pool.submit(self._stop, self._server(kind, memory), memory) for kind in SERVERS]
            self.run_dir.remember(memory)
            self.run_dir.forget_env()
            for stopped in stops:
                stopped.result()

    def status(self) -> list[ServerStatus]:
        """The state of each kind of server, now."""
        memory = self.run_dir.recall()
        return [self._status(kind, memory) for kind in SERVERS]

    def environment(self) -> dict[str, str]:
        """The variables of `stack.env`. Raises StackError when there is no stack."""
        variables = self.run_dir.read_env()
        if not variables:
            raise StackError("the stack is down: run `manage.py stack up` first")
        return variables

    def is_named(self, variable: str) -> bool:
        """Whether the environment names another server; variables from `stack.env` don't count."""
        return variable in self._named

    def named_environment(self) -> dict[str, str]:
        """The environment without what came from `stack.env`, which may change while a process
        lives.
        """
        ours = self.run_dir.read_env()
        return {name: value for name, value in self._environ.items() if name in self._named or name not in ours}

    def renew_service_ports(self) -> None:
        """Replaces ports of services that another process took meanwhile. Call it while no service
        runs.
        """
        with self.run_dir.locked():
            memory = self.run_dir.recall()
            for variable, name in SERVICE_PORTS.items():
                if not self.is_named(variable) and not is_free(memory.ports[name]):
                    memory.ports[name] = find_free(set(memory.ports.values()))
            self.run_dir.remember(memory)
            self.run_dir.write_env(self._variables(memory))

    def _assign_ports(self, memory: Memory) -> None:
        for variable, name in SERVICE_PORTS.items():
            if self.is_named(variable):
                memory.ports[name] = port_of(variable, self._environ[variable])
        for name in (*(kind.name for kind in SERVERS), *SERVICE_PORTS.values()):
            if name not in memory.ports:
                memory.ports[name] = find_free(set(memory.ports.values()))

    def _server(self, kind: Kind, memory: Memory) -> Server:
        return kind(self.run_dir.folder / kind.name, memory.ports.get(kind.name, 0))

    def _ensure(self, kind: Kind, memory: Memory) -> None:
        server = self._server(kind, memory)
        if not self._serves(server, memory):
            self._end(server, memory)
            self._start(server, memory)
        server.settle()

    def _serves(self, server: Server, memory: Memory) -> bool:
        identity = memory.servers.get(server.name)
        return identity is not None and identity.alive and wait_until(server.answers, seconds=5)

    def _start(self, server: Server, memory: Memory) -> None:
        server.prepare()
        for _ in range(STARTS_MAX):
            if not wait_until(lambda: is_free(server.port), PORT_SECONDS_MAX):
                server.port = memory.ports[server.name] = find_free(set(memory.ports.values()))
            if self._start_once(server, memory):
                return
            time.sleep(START_PAUSE_SECONDS)
        raise StackError(f"{server.name} didn't start; the end of {self._log(server)}:\n{tail(self._log(server))}")

    def _start_once(self, server: Server, memory: Memory) -> bool:
        process = start_detached(server.command(), log=self._log(server), cwd=self.run_dir.folder, user=server.user)
        identity = memory.servers[server.name] = Identity.of(process.pid, server.marker)
        wait_until(lambda: server.answers() or process.poll() is not None, START_SECONDS_MAX)
        if process.poll() is None and server.answers():
            return True
        stop(identity, how=server.stop_signal)
        return False

    def _stop(self, server: Server, memory: Memory) -> None:
        self._end(server, memory)
        server.clean_up()

    def _end(self, server: Server, memory: Memory) -> None:
        known = memory.servers.pop(server.name, None)
        for identity in (*([known] if known else []), *strays(server.binary, server.marker)):
            stop(identity, how=server.stop_signal)

    def _log(self, server: Server) -> Path:
        return self.run_dir.logs / f"{server.name}.log"

    def _status(self, kind: Kind, memory: Memory) -> ServerStatus:
        server = self._server(kind, memory)
        identity = memory.servers.get(kind.name)
        if identity is None or not identity.alive:
            return ServerStatus(kind.name, "named" if self.is_named(kind.variable) else "down")
        return ServerStatus(kind.name, "up" if server.answers() else "silent", server.url, identity.pid)

    def _variables(self, memory: Memory) -> dict[str, str]:
        servers = [self._server(kind, memory) for kind in SERVERS if kind.name in memory.servers]
        variables = {server.variable: server.url for server in servers}
        variables |= {variable: str(memory.ports[name]) for variable, name in SERVICE_PORTS.items()}
        if not self.is_named(Kafka.variable):
            variables["KAFKA_ASSIGNMENT"] = "range"  # the emulator gives the second member of a cooperative group no partitions
            variables["KAFKA_IDLE_SLEEP_MS"] = "64"  # the emulator doesn't wait for data: a consumer would poll it all the time
        if not any(self.is_named(variable) for variable in COUNTERPARTIES):
            base = f"http://{LOOPBACK}:{memory.ports['sandbox']}"
            variables |= {variable: f"{base}/{prefix}" for variable, prefix in COUNTERPARTIES.items()}
            variables["INTAKE_MAC"] = "required"  # the sandbox makes MACs
            variables["APPROVER_SETTLED_HOURS"] = "0"  # who tries the sandbox waits no day for a first approval
        return variables
