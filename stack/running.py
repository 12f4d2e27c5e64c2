"""One process of a service: starts it, receives its readiness notification, and stops it with
everything that it started.

A process reports readiness as systemd's `Type=notify` units do: it sends `READY=1` to the datagram
socket that NOTIFY_SOCKET names (base/notify.py).
"""

import contextlib
import itertools
import os
import resource
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from subprocess import Popen

from stack.processes import Identity, kill_group, start_detached
from stack.rundir import CHECKOUT

GRACE_SECONDS = 20.0  # a warm shutdown finishes the step in flight; a process that takes longer is killed, its orders recovered
NICENESS = 10  # of a process that starts beside its predecessor: its imports mustn't take that one's CPU
CAP_SYS_NICE = 1 << 23
NICE_LIMIT_OF_NORMAL = 20
_numbers = itertools.count(1)


class Running:
    """A process that was started at `started` (monotonic seconds)."""

    def __init__(self, command: str, log: Path, environment: Mapping[str, str], now: float, *, niced: bool = False) -> None:
        self.started = now
        self.is_ready = False
        self.stopping = False
        self._kill_at = 0.0
        address = f"acceptance-{os.getpid()}-{next(_numbers)}"
        self._ready_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._ready_socket.bind(f"\0{address}")
        # `exec`: the pid is the command's own, and signals reach it
        env = {**environment, "NOTIFY_SOCKET": f"@{address}"}
        self.process: Popen[bytes] = start_detached(["/bin/sh", "-c", f"exec {command}"], log=log, cwd=CHECKOUT, env=env)
        self.identity = Identity.of(self.process.pid)
        self._niced = niced and may_unnice()
        if self._niced:
            _set_niceness(self.process.pid, NICENESS)

    def check_ready(self) -> bool:
        """Whether it has reported that it is ready; from then on it runs at normal priority."""
        if not self.is_ready:
            with contextlib.suppress(BlockingIOError):
                self.is_ready = "READY=1" in self._ready_socket.recv(4096).decode(errors="replace").split("\n")
            if self.is_ready:
                self.unnice()
        return self.is_ready

    def unnice(self) -> None:
        """Gives it its normal priority."""
        if self._niced:
            self._niced = False
            _set_niceness(self.process.pid, 0)

    def terminate(self) -> None:
        """Asks it to end, once."""
        if not self.stopping:
            self.stopping = True
            for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process receives SIGTERM only after SIGCONT
                os.kill(self.process.pid, number)

    def kill_when_late(self, now: float) -> None:
        """Kills a process that was asked to end, once its grace period is over."""
        if not self._kill_at:
            self._kill_at = now + GRACE_SECONDS
        elif now >= self._kill_at:
            kill_group(self.process.pid)

    @property
    def has_ended(self) -> bool:
        """It stays on the process table until `reap`."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def reap(self) -> int:
        """Its exit code. Its children must not outlive it; it isn't reaped yet, so that the group
        is surely its own.
        """
        kill_group(self.process.pid)
        self._ready_socket.close()
        return self.process.wait()


def may_unnice() -> bool:
    """Whether we may give a niced process its normal priority back: otherwise none is niced."""
    status = Path("/proc/self/status").read_text()
    capabilities = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16)
    return bool(capabilities & CAP_SYS_NICE) or resource.getrlimit(resource.RLIMIT_NICE)[0] >= NICE_LIMIT_OF_NORMAL


def _set_niceness(leader: int, niceness: int) -> None:
    """Of all processes and threads of a session that we started; where the kernel groups by
    sessions, of that group, too.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PGRP, leader, niceness)
    with contextlib.suppress(OSError):
        Path(f"/proc/{leader}/autogroup").write_text(str(niceness))
