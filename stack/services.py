"""The client of the supervisor: starts it, sends it requests, reads the state that it writes."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stack.errors import StackError, WrongVariable
from stack.launcher import COUNTERPARTIES, SERVICE_PORTS, Stack
from stack.ports import accepts
from stack.processes import Identity, kill_group, start_detached, stop, wait_until
from stack.procfile import instance_name, instance_of, read_counts, read_procfile
from stack.rundir import CHECKOUT, RunDir, tail, write_atomically
from stack.running import GRACE_SECONDS
from stack.service import READY_SECONDS_MAX
from stack.supervisor import REQUESTS, STATUS, read_status

OBEY_SECONDS_MAX = 10.0
LISTEN_SECONDS_MAX = 60.0
WATCH_SECONDS = 1.0  # most processes that can't start end within it
SANDBOX = "sandbox"


@dataclass(frozen=True)
class ServiceLine:
    """A service as `status` shows it; the states are `stack.service.ServiceStatus`'s, or
    `unsupervised` when its supervisor died.
    """

    name: str
    state: str
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None


class Services:
    """The processes of one stack."""

    def __init__(self, stack: Stack, procfile: Path = CHECKOUT / "Procfile", counts: str = "") -> None:
        """`counts`: how many of each run, where it isn't one: "worker=2 consumer=2". Raises
        StackError.
        """
        self._stack = stack
        self._run_dir: RunDir = stack.run_dir
        self._procfile = procfile
        self._names = list(read_procfile(procfile))
        self._counts = read_counts(counts)
        unknown = sorted(set(self._counts) - set(self._names))
        if unknown:
            raise WrongVariable(f"PROCESSES names {', '.join(unknown)}: the Procfile has {', '.join(self._names)}")

    def up(self, names: Collection[str] = ()) -> None:
        """Starts the named services (default: all that this environment needs) and waits until they
        run and those with a port listen.

        Raises StackError when one doesn't, or when the stack is down.
        """
        wanted = self._checked(names) or self._needed()
        self._stack.environment()
        with self._run_dir.locked("services"):
            if self._supervisor() is None:
                self._end_leftovers()
                self._stack.renew_service_ports()
                self._start_supervisor(wanted)
            else:
                self.request(dict.fromkeys(wanted, "up"))
            self._wait_for(wanted)

    def down(self, names: Collection[str] = ()) -> None:
        """Stops the named services, or all and the supervisor."""
        wanted = self._checked(names)
        with self._run_dir.locked("services"):
            supervisor = self._supervisor()
            if supervisor and wanted:
                self.request(dict.fromkeys(wanted, "down"))
                self._wait_until_idle(wanted)
            elif not wanted:
                if supervisor:
                    stop(supervisor, grace_seconds=2 * GRACE_SECONDS + OBEY_SECONDS_MAX)  # the first of the Procfile after the others
                self._end_leftovers()

    def restart(self, names: Collection[str] = ()) -> None:
        """Stops and starts the named services, or all. Raises StackError when they aren't
        supervised.
        """
        wanted = self._checked(names) or self._needed()
        with self._run_dir.locked("services"):
            if self._supervisor() is None:
                raise StackError("no services run: `manage.py stack services up` starts them")
            before = {line.name: line.pid for line in self.status()}
            self.request(dict.fromkeys(wanted, "restart"))
            wait_until(
                lambda: all(line.pid != before.get(line.name) for line in self.status() if line.name in wanted), GRACE_SECONDS + OBEY_SECONDS_MAX
            )
            self._wait_for(wanted)

    def replace(self, names: Collection[str] = ()) -> None:
        """Replaces each of the named services (default: all that run but the sandbox), one after
        the other: its successor starts beside it, and when that is ready, it is told to stop.
        Raises StackError at the first that can't be replaced; its old process runs on.
        """
        with self._run_dir.locked("services"):
            if self._supervisor() is None:
                raise StackError("no services run: `manage.py stack services up` starts them")
            running = [line.name for line in self.status() if line.state == "running" and line.name != SANDBOX]
            for name in self._checked(names) or running:
                self._replace_one(name)

    def _replace_one(self, name: str) -> None:
        before = self._line(name)
        if before.state != "running" or name == SANDBOX:
            raise StackError(f"{name} is {before.state}" if name != SANDBOX else "the sandbox can't run twice: restart it")
        self.request({name: "replace"})
        wait_until(lambda: self._line(name).state != "replacing", READY_SECONDS_MAX + GRACE_SECONDS + OBEY_SECONDS_MAX)
        after = self._line(name)
        if after.state != "running" or after.pid == before.pid:
            log = self._run_dir.logs / f"{name}.log"
            raise StackError(f"{name} wasn't replaced, its old process runs on; the end of {log}:\n{tail(log)}")

    def _line(self, name: str) -> ServiceLine:
        return next(line for line in self.status() if line.name == name)

    def status(self) -> list[ServiceLine]:
        """One line a service, in the Procfile's order, its instances beside each other."""
        _, statuses = read_status(self._run_dir)
        supervised = self._supervisor() is not None
        lines = []
        known_names = {*self._names, *(name for name in statuses if instance_of(name)[0] in self._names)}
        for name in sorted(known_names, key=lambda name: (self._names.index(instance_of(name)[0]), instance_of(name)[1])):
            known = statuses.get(name)
            alive = known is not None and known.identity is not None and known.identity.alive
            if known is None or not (supervised or alive):
                lines.append(ServiceLine(name, "stopped"))
                continue
            state = known.state if supervised else "unsupervised"
            lines.append(ServiceLine(name, state, known.identity.pid if known.identity else None, known.restarts, known.exit_code))
        return lines

    def _checked(self, names: Collection[str]) -> list[str]:
        given = [instance_of(name) for name in names]
        unknown = sorted({base for base, _ in given} - set(self._names))
        if unknown:
            raise StackError(f"no such service: {', '.join(unknown)}; the Procfile has {', '.join(self._names)}")
        return [instance_name(base, number) for base, number in given]

    def _needed(self) -> list[str]:
        real = any(self._stack.is_named(variable) for variable in COUNTERPARTIES)
        bases = [name for name in self._names if not (real and name == SANDBOX)]
        return [instance_name(base, number) for base in bases for number in range(1, self._counts.get(base, 1) + 1)]

    def _supervisor(self) -> Identity | None:
        identity, _ = read_status(self._run_dir)
        return identity if identity and identity.alive else None

    def _start_supervisor(self, wanted: list[str]) -> None:
        (self._run_dir.folder / STATUS).unlink(missing_ok=True)
        (self._run_dir.folder / REQUESTS).unlink(missing_ok=True)
        shutil.rmtree(self._run_dir.metrics, ignore_errors=True)  # counts of processes that are gone
        log = self._run_dir.logs / "supervisor.log"
        environ = {**self._stack.named_environment(), "RUN_DIR": str(self._run_dir.folder)}
        process = start_detached(
            [sys.executable, "-m", "stack.supervisor", "--procfile", str(self._procfile), *wanted], log=log, cwd=CHECKOUT, env=environ
        )
        (self._run_dir.pids / "supervisor.pid").write_text(f"{process.pid}\n")
        try:
            known = wait_until(lambda: self._supervisor() is not None, OBEY_SECONDS_MAX)
        except BaseException:  # also Ctrl-C: before it has written its state, `down` doesn't know it, and its services would stay
            process.terminate()
            process.wait(2 * GRACE_SECONDS + OBEY_SECONDS_MAX)
            raise
        if not known:
            raise StackError(f"the supervisor didn't start; the end of {log}:\n{tail(log)}")

    def _end_leftovers(self) -> None:
        _, statuses = read_status(self._run_dir)
        for name, status in statuses.items():
            for identity in status.identities:
                if identity.alive:
                    stop(identity, grace_seconds=GRACE_SECONDS)
                    kill_group(identity.pid)
            (self._run_dir.pids / f"{name}.pid").unlink(missing_ok=True)
        (self._run_dir.pids / "supervisor.pid").unlink(missing_ok=True)
        (self._run_dir.folder / STATUS).unlink(missing_ok=True)

    def request(self, requests: dict[str, str]) -> None:
        """Sends the supervisor a request for each name: up, down, restart or replace. Raises
        StackError when it doesn't take it.
        """
        supervisor = self._supervisor()
        file = self._run_dir.folder / REQUESTS
        write_atomically(file, json.dumps(requests))
        if supervisor:
            os.kill(supervisor.pid, signal.SIGHUP)
        if not wait_until(lambda: not file.exists(), OBEY_SECONDS_MAX):
            raise StackError(f"the supervisor doesn't answer: see {self._run_dir.logs / 'supervisor.log'}")

    def _wait_for(self, wanted: list[str]) -> None:
        before = {line.name: line.restarts for line in self.status()}
        wait_until(lambda: not self._not_running(wanted, before) or self._given_up(wanted, before), OBEY_SECONDS_MAX)
        wait_until(lambda: bool(self._not_running(wanted, before)), WATCH_SECONDS)
        ports = {name: port for name, port in self._run_dir.recall().ports.items() if name in wanted and name in SERVICE_PORTS.values()}
        wait_until(lambda: all(map(accepts, ports.values())) or self._given_up(wanted, before), LISTEN_SECONDS_MAX, pause_seconds=0.1)
        failed = {*self._not_running(wanted, before), *(name for name, port in ports.items() if not accepts(port))}
        if failed:
            logs = "\n".join(f"--- {name}.log\n{tail(self._run_dir.logs / f'{name}.log')}" for name in sorted(failed))
            raise StackError(f"{', '.join(sorted(failed))} didn't start:\n{logs}")

    def _not_running(self, wanted: list[str], before: dict[str, int]) -> list[str]:
        lines = [line for line in self.status() if line.name in wanted]
        return [line.name for line in lines if line.state != "running" or line.restarts > before.get(line.name, 0)]

    def _given_up(self, wanted: list[str], before: dict[str, int]) -> bool:
        return any(line.state == "halted" or line.restarts > before.get(line.name, 0) for line in self.status() if line.name in wanted)

    def _wait_until_idle(self, names: list[str]) -> None:
        idle = {"stopped", "halted"}
        wait_until(lambda: all(line.state in idle for line in self.status() if line.name in names), GRACE_SECONDS + OBEY_SECONDS_MAX)
