"""The folder that holds all state of the stack (`.run/`, or RUN_DIR): its lock, what is remembered,
and `stack.env`.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stack.errors import StackError, WrongVariable
from stack.processes import Identity

CHECKOUT = Path(__file__).resolve().parent.parent
LOCK_SECONDS_MAX = 120.0


def default_folder(environ: Mapping[str, str]) -> Path:
    """RUN_DIR, or `.run` in the checkout. Raises WrongVariable where a file is in its way."""
    folder = Path(environ.get("RUN_DIR") or CHECKOUT / ".run").resolve()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise WrongVariable(f"RUN_DIR is {str(folder)!r}: set it to a folder ({nearest} is a file)")
    return folder


@dataclass
class Memory:
    """What one command remembers for the next: every port, and the servers that were started."""

    ports: dict[str, int] = field(default_factory=dict)
    servers: dict[str, Identity] = field(default_factory=dict)


class RunDir:
    """Paths of a run folder, and its three files: `stack.lock`, `stack.json` (memory) and
    `stack.env` (for settings.py).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.pids = folder / "pids"
        self.metrics = folder / "metrics"  # shared by the services, so that the web's /metrics shows all of them
        self.env_file = folder / "stack.env"
        self._memory_file = folder / "stack.json"

    def make(self) -> None:
        """Makes the folder. Raises StackError when another account's folder is in the way."""
        for path in (self.folder, self.logs, self.pids):
            path.mkdir(parents=True, exist_ok=True)
            if not os.access(path, os.W_OK):
                raise StackError(f"{path} belongs to another account: remove it as that account (make clean), or set RUN_DIR")

    @contextlib.contextmanager
    def locked(self, name: str = "stack") -> Iterator[None]:
        """One command at a time; others wait. The kernel frees the lock of a process that died."""
        self.make()
        with (self.folder / f"{name}.lock").open("a") as lock:
            deadline = time.monotonic() + LOCK_SECONDS_MAX
            while not take(lock.fileno()):
                if time.monotonic() > deadline:
                    raise StackError(f"another command has held {lock.name} for {LOCK_SECONDS_MAX:.0f} s: see `fuser {lock.name}`")
                time.sleep(0.05)
            yield

    def remember(self, memory: Memory) -> None:
        write_atomically(self._memory_file, json.dumps(asdict(memory), indent=2))

    def recall(self) -> Memory:
        """What was remembered; nothing when the file is absent or was cut off by a crash."""
        raw = read_json(self._memory_file)
        servers = {name: Identity(**identity) for name, identity in raw.get("servers", {}).items()}
        return Memory(ports=raw.get("ports", {}), servers=servers)

    def write_env(self, variables: Mapping[str, str]) -> None:
        write_atomically(self.env_file, "".join(f"{name}={value}\n" for name, value in variables.items()))

    def read_env(self) -> dict[str, str]:
        """The variables of `stack.env`; none when there is no stack."""
        try:
            lines = self.env_file.read_text().splitlines()
        except FileNotFoundError:
            return {}
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def forget_env(self) -> None:
        self.env_file.unlink(missing_ok=True)


def take(descriptor: int) -> bool:
    """Takes an exclusive lock on an open file without waiting; says whether it got it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old contents or the new ones, never a part."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_text(text)
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when there is none or it can't be read."""
    try:
        loaded = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"
