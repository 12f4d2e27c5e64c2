"""One supervised service: a small state machine, driven by `check(now)`."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.processes import Identity
from stack.procfile import instance_of
from stack.rundir import RunDir
from stack.running import Running

EXIT_STAY_STOPPED = 78  # EX_CONFIG: starting it again wouldn't help, an operator has to look
PAUSE_SECONDS_MIN = 0.5
PAUSE_SECONDS_MAX = 30.0
STEADY_SECONDS = 30.0  # a process that ran so long is started again after the shortest pause
NICED_SECONDS_MAX = 10.0  # of low priority; on a machine that is short of CPU it would never get any
READY_SECONDS_MAX = 60.0  # a successor that isn't ready by then never will be


@dataclass(frozen=True)
class ServiceStatus:
    """`state`: running, replacing (its successor starts, or its predecessor still ends), waiting
    (died, starts again soon), stopping, stopped, or halted (exit code 78: stopped until `up`).
    """

    state: str
    identity: Identity | None
    restarts: int
    exit_code: int | None  # of its last end; negative: the signal that killed it
    beside: tuple[Identity, ...] = ()  # its successor, and predecessors that still end

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> "ServiceStatus":
        identity = Identity(**raw["identity"]) if raw["identity"] else None
        return cls(raw["state"], identity, raw["restarts"], raw["exit_code"], tuple(Identity(**other) for other in raw.get("beside", ())))

    @property
    def identities(self) -> list[Identity]:
        """Every process of the service."""
        return [*([self.identity] if self.identity else []), *self.beside]


class Service:
    """A command line that is to run (`wanted`) or not."""

    def __init__(self, name: str, command: str, run_dir: RunDir, *, wanted: bool) -> None:
        self.name = name
        self._command = command
        self._run_dir = run_dir
        self._wanted = wanted
        self._running: Running | None = None
        self._successor: Running | None = None
        self._leaving: list[Running] = []
        self._start_at = 0.0
        self._pause = PAUSE_SECONDS_MIN
        self._restarts = 0
        self._exit_code: int | None = None

    @property
    def idle(self) -> bool:
        """Neither running nor about to."""
        return not (self._running or self._successor or self._leaving or self._wanted)

    def request(self, what: str | None, now: float) -> None:
        """`up`, `down`, `restart`, or `replace` (a successor starts first); None leaves things as
        they are.
        """
        if what in {"up", "restart", "replace"}:
            self._wanted, self._start_at, self._pause = True, 0.0, PAUSE_SECONDS_MIN
        if what == "down":
            self._wanted = False
        if what == "restart" and self._running is not None:
            self._running.terminate()
        if what == "replace" and self._running is not None and not self._running.stopping and self._successor is None:
            self._successor = self._start(now, niced=True)

    def check(self, now: float) -> None:
        """Starts or stops processes as wanted. `now` is a monotonic clock's, in seconds."""
        for former in list(self._leaving):
            self._end_former(former, now)
        if self._successor is not None:
            self._promote(self._successor, now)
        if self._running is None:
            if self._wanted and now >= self._start_at:
                self._running = self._start(now)
                self._write_pid()
        elif self._running.has_ended:
            self._end(self._running, now)
        elif self._running.stopping:
            self._running.kill_when_late(now)
        elif not self._wanted:
            self._running.terminate()

    def status(self) -> ServiceStatus:
        beside = tuple(other.identity for other in [*([self._successor] if self._successor else []), *self._leaving])
        return ServiceStatus(self._state(), self._running.identity if self._running else None, self._restarts, self._exit_code, beside)

    def _state(self) -> str:
        if self._running is not None:
            if self._running.stopping:
                return "stopping"
            return "replacing" if self._successor or self._leaving else "running"
        if self._wanted:
            return "waiting"
        if self._leaving:
            return "stopping"
        return "halted" if self._exit_code == EXIT_STAY_STOPPED else "stopped"

    @property
    def _pid_file(self) -> Path:
        return self._run_dir.pids / f"{self.name}.pid"

    def _start(self, now: float, *, niced: bool = False) -> Running:
        return Running(self._command, self._run_dir.logs / f"{self.name}.log", self._environment(), now, niced=niced)

    def _write_pid(self) -> None:
        assert self._running is not None
        self._pid_file.write_text(f"{self._running.process.pid}\n")

    def _environment(self) -> dict[str, str]:
        role, number = instance_of(self.name)
        environ = {"METRICS_DIR": str(self._run_dir.metrics), **self._run_dir.read_env(), **os.environ}
        path = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
        ours = {"PATH": path, "RUN_DIR": str(self._run_dir.folder), "PROCESS_ROLE": role, "INSTANCE": str(number), "PYTHONUNBUFFERED": "1"}
        return {**environ, **ours}

    def _promote(self, successor: Running, now: float) -> None:
        """Makes a successor that is ready the service's process and ends the former one. A
        successor that died, or isn't wanted any more, changes nothing.
        """
        if successor.has_ended:
            self._exit_code, self._successor = successor.reap(), None
        elif not self._wanted or now - successor.started > READY_SECONDS_MAX:
            self._successor = None
            self._retire(successor)
        elif not successor.check_ready():
            if now - successor.started > NICED_SECONDS_MAX:
                successor.unnice()
        else:
            former, self._running, self._successor = self._running, successor, None
            self._write_pid()
            if former is not None:
                self._retire(former)

    def _retire(self, former: Running) -> None:
        former.terminate()
        self._leaving.append(former)

    def _end_former(self, former: Running, now: float) -> None:
        if former.has_ended:
            self._exit_code = former.reap()
            self._leaving.remove(former)
        else:
            former.kill_when_late(now)

    def _end(self, ended: Running, now: float) -> None:
        self._exit_code = ended.reap()
        self._pid_file.unlink(missing_ok=True)
        self._running = None
        if ended.stopping:
            return
        if self._exit_code == EXIT_STAY_STOPPED:
            self._wanted = False
            return
        if now - ended.started >= STEADY_SECONDS:
            self._pause = PAUSE_SECONDS_MIN
        self._start_at, self._pause = now + self._pause, min(2 * self._pause, PAUSE_SECONDS_MAX)
        self._restarts += 1
