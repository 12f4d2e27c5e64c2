"""Detached processes: they outlive the command that starts them, are recognised later although
pids are reused, and are stopped with everything that they started.
"""

import atexit
import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIME_SLACK_SECONDS = 2.0  # psutil computes a start from the boot time, which the clock's corrections move
_started: list["subprocess.Popen[bytes]"] = []  # kept, so that Python doesn't warn of children that are meant to outlive us


@dataclass(frozen=True)
class Identity:
    """One process for sure: its pid, when it started (seconds since the epoch) and a text that its
    command line holds.
    """

    pid: int
    started_at: float
    marker: str = ""

    @classmethod
    def of(cls, pid: int, marker: str = "") -> "Identity":
        """The identity of a running process. Raises `psutil.NoSuchProcess` when it is gone
        already.
        """
        return cls(pid, psutil.Process(pid).create_time(), marker)

    def find(self) -> psutil.Process | None:
        """The process if it still lives; None when it ended or when another one got its pid."""
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.started_at) > START_TIME_SLACK_SECONDS:
                return None
            return process if self.marker in " ".join(process.cmdline()) else None
        except psutil.NoSuchProcess:
            return None

    @property
    def alive(self) -> bool:
        return self.find() is not None


def start_detached(
    command: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str] | None = None, user: str | None = None
) -> "subprocess.Popen[bytes]":
    """Starts a daemon in a session of its own: no terminal, no inherited descriptors, its output
    appended to `log`.

    With `user` (only as root) it runs as that account and its group alone. Raises OSError when the
    command can't be executed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=env,
            start_new_session=True,
            user=user,
            group=group_of(user),
            extra_groups=[] if user else None,
        )
    _started.append(process)
    return process


def group_of(user: str | None) -> int | None:
    """The account's own group; None for no account. Raises KeyError when there is no such
    account.
    """
    return pwd.getpwnam(user).pw_gid if user else None


def stop(identity: Identity, *, how: signal.Signals = signal.SIGTERM, grace_seconds: float = 10.0) -> None:
    """Asks the process to end, kills it with its process group after the grace, and returns when it
    is gone.
    """
    process = identity.find()
    if process is None:
        _reap()
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)  # a stopped process receives SIGTERM only after SIGCONT
    if not gone(process, grace_seconds):
        kill_group(identity.pid)
        gone(process, grace_seconds)


def gone(process: psutil.Process, seconds: float) -> bool:
    """Waits until the process has ended (a zombie has), at most so long; says whether it has."""
    return wait_until(lambda: _ended(process), seconds)


def _ended(process: psutil.Process) -> bool:
    try:
        ended = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        ended = True
    _reap()  # after the look: what it found ended must not stay on the process table
    return ended


def _reap() -> None:
    """Takes our own children that have ended off the process table: nobody else does."""
    for child in _started:
        child.poll()


@atexit.register
def _let_go() -> None:
    """At the interpreter's end Popen would warn of each child that it hasn't seen end."""
    for child in _started:
        if child.poll() is None:
            child.returncode = 0


def kill_group(group: int) -> None:
    """SIGKILL to every process of a group, if there is still one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def strays(binary: str, marker: str) -> Iterator[Identity]:
    """Processes of that binary with the marker as a word of their command line: still running
    although their record was lost.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            words = process.cmdline()
            if words and Path(words[0]).name == binary and marker in words:
                yield Identity(process.pid, process.create_time(), marker)


def wait_until(condition: Callable[[], bool], seconds: float, pause_seconds: float = 0.02) -> bool:
    """Polls the condition until it holds; False when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_seconds)
    return True
