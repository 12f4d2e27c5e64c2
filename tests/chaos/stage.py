"""The live service that the faults meet: two workers, two `worker-ops` and two beats, on servers of
its own under `.run/chaos`.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stack.launcher import Stack
from stack.procfile import instance_name, read_counts, read_procfile
from stack.rundir import CHECKOUT
from stack.services import Services
from tests.support.servers import forget_durability, only_run_in
from tests.support.service import LiveService
from tests.support.waiting import wait_until

COUNTS = "worker=2 worker-ops=2 beat=2"
UP_SECONDS_MAX = 40


@dataclass(frozen=True)
class Stage:
    """The running service, its servers, and its processes. `halted`: those that ended for good by
    themselves, which none may.
    """

    service: LiveService
    stack: Stack
    services: Services
    halted: set[str] = field(default_factory=set)

    def oldest(self, name: str) -> str:
        """Of the processes of that name, the one that has lived longest."""
        return min(self.all_of(name), key=lambda one: (self.service.folder / "pids" / f"{one}.pid").stat().st_mtime)

    def all_of(self, name: str) -> list[str]:
        """The names of all processes of one kind, each of them up; the supervisor's pause before a
        restart is the shortest again.
        """
        names = [instance_name(name, number + 1) for number in range(read_counts(COUNTS).get(name, 1))]
        self.look_for_halted()
        self.services.request(dict.fromkeys(names, "up"))
        wait_until(lambda: all(self.service.pid_or_none(one) for one in names), seconds=UP_SECONDS_MAX)
        return names

    def look_for_halted(self) -> None:
        """Remembers who has ended for good."""
        self.halted.update(line.name for line in self.services.status() if line.state == "halted")


@contextmanager
def stage(folder: Path, seed: int) -> Iterator[Stage]:
    """Brings everything up from nothing and takes it down, whatever happens; the logs stay until
    the next run. Raises BusyError.
    """
    with only_run_in(folder):
        _empty(folder, besides=("pytest.lock",))
        inherited = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
        environment = {**inherited, "RUN_DIR": str(folder)}
        stack = Stack(folder, environment)
        stack.run_dir.make()
        services = Services(stack, _procfile(folder, seed), counts=COUNTS)
        service = LiveService(folder, environment)
        try:
            stack.up()
            forget_durability(service.variable("DATABASE_URL"))
            service.manage("migrate", "--verbosity=0", DATABASE_STATEMENT_MS_MAX="0")
            service.manage("first_start", "--sandbox")
            services.up()
            yield Stage(service, stack, services)
        finally:
            services.down()
            stack.down()
            _empty(folder, besides=("pytest.lock", "logs"))


def _empty(folder: Path, besides: Collection[str]) -> None:
    for entry in folder.iterdir():
        if entry.name in besides:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _procfile(folder: Path, seed: int) -> Path:
    lines = []
    for name, command in read_procfile(CHECKOUT / "Procfile").items():
        lines.append(f"{name}: {command} --seed {seed}" if name == "sandbox" else f"{name}: {command}")
    path = folder / "Procfile"
    path.write_text("\n".join(lines) + "\n")
    return path
