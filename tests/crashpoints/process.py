"""Processes that really die: forked, with their own connections, and ended by `os._exit` in the
middle of what they do.

The host forks one after another and serves it meanwhile, in one thread: counterparties, Kafka's log
and the taking of messages from the broker (as BRPOP with early acknowledgement: what was taken is
gone). Database and broker are real servers.
"""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Final

import redis
from django.conf import settings

from acceptance_site.celery import app
from clearing.dispatch.queues import OPS_QUEUE
from tests.crashpoints.books import Books, Call, Log
from tests.crashpoints.clock import clock
from tests.crashpoints.doors import EXIT_DIED, Doors
from tests.crashpoints.points import Ending, Plan

SILENT_SECONDS_MAX: Final = 120.0  # without a word from a process it hangs
QUEUES: Final = [queue.name for queue in app.conf.task_queues if queue.name != OPS_QUEUE]


def _nothing() -> None:
    """No guard is broken."""


class Host:
    """What outlives the processes of one case."""

    def __init__(self, broker: "redis.Redis") -> None:
        self.broker = broker
        self.books = Books()
        self.log = Log()
        self.settings: Mapping[str, object] = {}
        self.plant: Callable[[], None] = _nothing  # what breaks a guard on purpose, in each process
        self._ending = Ending()

    def copy(self) -> "Host":
        """The same once more, for another case that begins here."""
        other = Host(self.broker)
        other.books, other.log, other.settings, other.plant = self.books.copy(), replace(self.log), self.settings, self.plant
        return other

    def run(self, body: Callable[["Process"], None], plan: Plan | None = None) -> Ending:
        """Runs a process to its end. With a plan its doors are watched from the first effect of
        `body` on.
        """
        ours, theirs = Pipe()
        pid = os.fork()
        if not pid:
            ours.close()
            _live(theirs, body, plan, self)
        theirs.close()
        self._ending = Ending()
        self._serve(ours, pid)
        ours.close()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status not in {0, EXIT_DIED} and not self._ending.error:
            self._ending.error = f"the process ended with {status}"
        return self._ending

    def _serve(self, channel: Connection, pid: int) -> None:
        while True:
            if not channel.poll(SILENT_SECONDS_MAX):
                os.kill(pid, signal.SIGKILL)
                self._ending.error = f"nothing was heard of the process for {SILENT_SECONDS_MAX:.0f} s"
                return
            try:
                kind, content = channel.recv()
            except (EOFError, ConnectionResetError):
                return
            answers: Callable[[Any], Any] | None = getattr(self, f"_on_{kind}")
            assert answers is not None
            reply = answers(content)
            if reply is not None:
                channel.send(reply)

    def _on_died(self, content: Any) -> None:
        self._ending.died = True
        self._ending.trace, self._ending.broken = content

    def _on_lived(self, content: Any) -> None:
        self._ending.trace, self._ending.broken = content

    def _on_failed(self, content: str) -> None:
        self._ending.error = content

    def _on_call(self, call: Call) -> object:
        return self.books.answer(call)

    def _on_late_call(self, call: Call) -> None:
        self.books.send_late(call)

    def _on_take(self, _: object) -> object:
        """(queue, the next message), gone from the broker by now; b"" when there is none."""
        found: Any = self.broker.lmpop(len(QUEUES), *QUEUES, direction="RIGHT")
        return (found[0].decode(), found[1][0]) if found else ("", b"")

    def _on_waiting(self, _: object) -> object:
        return self.broker.exists(*QUEUES)

    def _on_wipe(self, _: object) -> object:
        return bool(self.broker.flushdb())

    def _on_advance(self, seconds: float) -> None:
        clock.ahead_seconds += seconds

    def _on_poll(self, limit: int) -> object:
        """(offset, message) of what follows the last commit."""
        start = self.log.committed
        return list(enumerate(self.log.messages[start : start + limit], start))

    def _on_read(self, span: tuple[int, int]) -> object:
        """The same of what follows an offset."""
        start, limit = span
        return list(enumerate(self.log.messages[start : start + limit], start))

    def _on_committed(self, _: object) -> object:
        return self.log.committed

    def _on_commit(self, offset: int) -> object:
        self.log.committed = offset
        return True


class Process:
    """A process as its body sees it: its doors, its line to the host, and time."""

    def __init__(self, doors: Doors, channel: Connection) -> None:
        self.doors = doors
        self._channel = channel

    def tell(self, kind: str, content: object = None) -> None:
        """Tells the host something that has no answer."""
        self._channel.send((kind, content))

    def ask(self, kind: str, content: object = None) -> Any:
        """Asks the host."""
        self._channel.send((kind, content))
        return self._channel.recv()

    def advance(self, seconds: float) -> None:
        """Time goes on for everybody."""
        from django.db import connection

        self.tell("advance", seconds)
        clock.ahead_seconds += seconds
        if connection.connection is not None:
            clock.shift(connection)


def _live(channel: Connection, body: Callable[[Process], None], plan: Plan | None, host: Host) -> None:
    """A whole life. Never returns."""
    code = 1
    try:
        gc.disable()  # a short life; and what it would touch is its parent's memory, which would be copied
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for name, value in host.settings.items():
            setattr(settings, name, value)
        host.plant()
        doors = Doors(plan or Plan(), channel)
        doors.armed = plan is not None
        body(Process(doors, channel))
        channel.send(("lived", (doors.trace, doors.broken)))
        code = 0
    except BaseException:
        channel.send(("failed", traceback.format_exc()))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
