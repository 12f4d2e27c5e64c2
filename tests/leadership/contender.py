"""A process that stands for leadership and writes under its term as fast as it can: `python -m
tests.leadership.contender`.

It is as obstinate as it can be: whatever it believes, it writes under the last term that it ever
had, so that nothing but the fence stops an old leader. Commands come on stdin: `clock SECONDS`
shifts the clock by which it judges its own leadership. SIGTERM: resigns, then ends.
"""

import os
import random
import signal
import sys
import threading
import time
from types import FrameType

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "acceptance_site.settings")
django.setup()

from django.db import Error, connection

from base.db import drop_broken_connection
from base.fence import TermOutdated, fence_of, fenced
from ops.leadership import LeaderCandidate, make_candidate
from ops.leadership.candidate import boottime

WRITE = "INSERT INTO fault_writes (term, writer, believed) VALUES (%s, %s, %s)"
REFUSED = "INSERT INTO fault_refusals (term, writer, believed) VALUES (%s, %s, %s)"
PAUSE_SECONDS = 0.01


class Contender:
    """One process of the trial."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.candidate: LeaderCandidate = make_candidate()
        self.candidate._clock = lambda: boottime() + self.shift
        self.over = False
        self.last_term: int | None = None

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        threading.Thread(target=self._obey, daemon=True).start()
        self.candidate.campaign()
        print(self.candidate.name, flush=True)  # noqa: T201 - tells the trial its name
        while not self.over:
            self._write()
            time.sleep(PAUSE_SECONDS)

    def _write(self) -> None:
        believed = self.candidate.term
        self.last_term = believed or self.last_term
        if self.last_term is None:
            return
        values: list[int | str | bool] = [self.last_term, self.candidate.name, believed == self.last_term]
        try:
            with fenced(fence_of(self.last_term)), connection.cursor() as cursor:
                time.sleep(random.random() * 0.005)
                cursor.execute(WRITE, values)
                time.sleep(random.random() * 0.005)
        except TermOutdated:
            self._note(values)
            self.last_term = believed if believed != self.last_term else None
        except Error:
            drop_broken_connection()

    def _note(self, values: list[int | str | bool]) -> None:
        try:
            with connection.cursor() as cursor:
                cursor.execute(REFUSED, values)
        except Error:
            drop_broken_connection()

    def _obey(self) -> None:
        for line in sys.stdin:
            self.shift += float(line.split()[1])

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.candidate.resign()
        self.over = True


if __name__ == "__main__":
    Contender().run()
