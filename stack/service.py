"""One supervised process: its life as a small state machine, driven by `check(now)`."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

from stack.processes import Identity, kill_group, start_detached
from stack.rundir import CHECKOUT, RunDir

EXIT_STAY_STOPPED = 78  # EX_CONFIG: starting it again wouldn't help, a person has to look
PAUSE_SECONDS_MIN = 0.5
PAUSE_SECONDS_MAX = 30.0
STEADY_SECONDS = 30.0  # who lived so long starts again with the shortest pause
GRACE_SECONDS = 20.0  # a warm shutdown finishes the step in flight; who takes longer is killed and recovered


@dataclass(frozen=True)
class ServiceStatus:
    """`state`: running, waiting (died, starts again soon), stopping, stopped, or halted (exit code 78: stays stopped until told `up`)."""

    state: str
    identity: Identity | None
    restarts: int
    exit_code: int | None  # of its last end; negative: the signal that killed it

    @classmethod
    def load(cls, raw: Mapping[str, Any]) -> "ServiceStatus":
        identity = Identity(**raw["identity"]) if raw["identity"] else None
        return cls(raw["state"], identity, raw["restarts"], raw["exit_code"])


class Service:
    """A command line that is to run (`wanted`) or not."""

    def __init__(self, name: str, command: str, run_dir: RunDir, *, wanted: bool) -> None:
        self.name = name
        self._command = command
        self._run_dir = run_dir
        self._wanted = wanted
        self._process: Popen[bytes] | None = None
        self._identity: Identity | None = None
        self._started = self._start_at = self._kill_at = 0.0
        self._stopping = False
        self._pause = PAUSE_SECONDS_MIN
        self._restarts = 0
        self._exit_code: int | None = None

    @property
    def idle(self) -> bool:
        """Neither running nor about to."""
        return self._process is None and not self._wanted

    def request(self, what: str | None) -> None:
        """`up`, `down` or `restart`; None leaves things as they are."""
        if what in {"up", "restart"}:
            self._wanted, self._start_at, self._pause = True, 0.0, PAUSE_SECONDS_MIN
        if what == "down":
            self._wanted = False
        if what == "restart" and self._process is not None and not self._stopping:
            self._terminate()

    def check(self, now: float) -> None:
        """Brings the process nearer to what is wanted. `now` is a monotonic clock's, in seconds."""
        if self._process is None:
            if self._wanted and now >= self._start_at:
                self._start(now)
        elif has_ended(self._process.pid):
            self._end(now)
        elif not self._stopping:
            if not self._wanted:
                self._terminate()
        elif not self._kill_at:
            self._kill_at = now + GRACE_SECONDS
        elif now >= self._kill_at:
            kill_group(self._process.pid)

    def status(self) -> ServiceStatus:
        return ServiceStatus(self._state(), self._identity, self._restarts, self._exit_code)

    def _state(self) -> str:
        if self._process is not None:
            return "stopping" if self._stopping else "running"
        if self._wanted:
            return "waiting"
        return "halted" if self._exit_code == EXIT_STAY_STOPPED else "stopped"

    @property
    def _pid_file(self) -> Path:
        return self._run_dir.pids / f"{self.name}.pid"

    def _start(self, now: float) -> None:
        # `exec`: the pid is the command's own, and signals reach it
        command = ["/bin/sh", "-c", f"exec {self._command}"]
        self._process = start_detached(command, log=self._run_dir.logs / f"{self.name}.log", cwd=CHECKOUT, env=self._environment())
        self._identity = Identity.of(self._process.pid)
        self._pid_file.write_text(f"{self._process.pid}\n")
        self._started, self._stopping, self._kill_at = now, False, 0.0

    def _environment(self) -> dict[str, str]:
        environ = {"METRICS_DIR": str(self._run_dir.metrics), **self._run_dir.read_env(), **os.environ}
        path = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
        return {**environ, "PATH": path, "RUN_DIR": str(self._run_dir.folder), "PROCESS_ROLE": self.name, "PYTHONUNBUFFERED": "1"}

    def _terminate(self) -> None:
        assert self._process is not None
        self._stopping = True
        for number in (signal.SIGTERM, signal.SIGCONT):  # a frozen process hears nothing else
            os.kill(self._process.pid, number)

    def _end(self, now: float) -> None:
        assert self._process is not None
        kill_group(self._process.pid)  # its children must not outlive it; it isn't reaped yet, so that the group is surely its own
        self._exit_code = self._process.wait()
        self._pid_file.unlink(missing_ok=True)
        asked, self._process, self._identity, self._stopping = self._stopping, None, None, False
        if asked:
            return
        if self._exit_code == EXIT_STAY_STOPPED:
            self._wanted = False
            return
        if now - self._started >= STEADY_SECONDS:
            self._pause = PAUSE_SECONDS_MIN
        self._start_at, self._pause = now + self._pause, min(2 * self._pause, PAUSE_SECONDS_MAX)
        self._restarts += 1


def has_ended(pid: int) -> bool:
    """Whether a child of ours has ended; it stays on the process table."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
