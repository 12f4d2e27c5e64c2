"""Keeps the Procfile's processes running: `python -m stack.supervisor NAME…`, started by `manage.py
stack services up`.

Why not PyPI's `supervisor`: it retries a process that exits at once whatever its exit code, and
exit code 78 ("don't start me again") has to be obeyed then too; it writes no pid files; and a
child's own children outlive it when the child is killed hard.

SIGTERM stops all. SIGHUP reads `services.request.json` ({name: up|down|restart|replace}). The state
is written to `services.json`. A name is the Procfile's, or with a number (`worker.2`) one more
instance of it.
"""

import argparse
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from stack.errors import StackError
from stack.processes import Identity
from stack.procfile import instance_of, read_procfile
from stack.rundir import CHECKOUT, RunDir, default_folder, read_json, write_atomically
from stack.service import Service, ServiceStatus

REQUESTS = "services.request.json"
STATUS = "services.json"
TICK_SECONDS = 0.5


class WakeupPipe:
    """Wakes the loop at every signal. Not a threading.Event: a handler that sets one while the loop
    holds its lock would deadlock.
    """

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def install(self) -> None:
        """From now on every signal writes to the pipe."""
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)

    def wait(self, seconds: float) -> None:
        """Returns at the next signal, or after so long; a signal that came before counts."""
        if select.select([self._read_end], [], [], seconds)[0]:
            os.read(self._read_end, 65_536)


class Supervisor:
    """Services of one run folder, in the Procfile's order."""

    def __init__(self, run_dir: RunDir, commands: Mapping[str, str], wanted: set[str]) -> None:
        self._run_dir = run_dir
        self._commands = commands
        names = [*commands, *sorted(wanted - set(commands))]
        self._services = [self._service(name, wanted=name in wanted) for name in names]
        self._identity = Identity.of(os.getpid())
        self._wakeup = WakeupPipe()
        self._stopping = False
        self._asked = False
        self._written = ""

    def _service(self, name: str, *, wanted: bool) -> Service:
        return Service(name, self._commands[instance_of(name)[0]], self._run_dir, wanted=wanted)

    def run(self) -> None:
        """Supervises until SIGTERM or SIGINT; returns when every service has ended."""
        self._wakeup.install()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        while not (self._stopping and all(service.idle for service in self._services)):
            if self._asked:
                self._obey()
            if self._stopping:
                self._stop_in_order()
            for service in self._services:
                service.check(time.monotonic())
            self._write_status()
            self._wakeup.wait(TICK_SECONDS)
        self._write_status()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = self._stopping or number in {signal.SIGTERM, signal.SIGINT}
        self._asked = self._asked or number == signal.SIGHUP

    def _obey(self) -> None:
        self._asked = False
        file = self._run_dir.folder / REQUESTS
        requests = read_json(file)
        known = {service.name for service in self._services}
        self._services += [self._service(name, wanted=False) for name in requests if name not in known]
        for service in self._services:
            service.request(requests.get(service.name), time.monotonic())
        self._write_status()
        file.unlink(missing_ok=True)  # its absence tells the command that it was read

    def _stop_in_order(self) -> None:
        foundation, *others = self._services
        for service in others:
            service.request("down", time.monotonic())
        if all(service.idle for service in others):
            foundation.request("down", time.monotonic())

    def _write_status(self) -> None:
        services = {service.name: asdict(service.status()) for service in self._services}
        text = json.dumps({"supervisor": asdict(self._identity), "services": services}, indent=2)
        if text != self._written:
            write_atomically(self._run_dir.folder / STATUS, text)
            self._written = text


def read_status(run_dir: RunDir) -> tuple[Identity | None, dict[str, ServiceStatus]]:
    """The supervisor that wrote `services.json` last (it may be dead), and the state of each
    service that it wrote.
    """
    raw = read_json(run_dir.folder / STATUS)
    if not raw:
        return None, {}
    return Identity(**raw["supervisor"]), {name: ServiceStatus.load(status) for name, status in raw["services"].items()}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m stack.supervisor", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="services to run, as named in the Procfile; worker.2 is a second one")
    parser.add_argument("--procfile", type=Path, default=CHECKOUT / "Procfile", help="default: the checkout's")
    options = parser.parse_args(arguments)
    try:
        commands = read_procfile(options.procfile)
        unknown = sorted(name for name in options.names if instance_of(name)[0] not in commands)
        if unknown:
            parser.error(f"{options.procfile} has no {', '.join(unknown)}; it has {', '.join(commands)}")
        supervisor = Supervisor(RunDir(default_folder(os.environ)), commands, set(options.names))
    except StackError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    supervisor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
