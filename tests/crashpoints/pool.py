"""Slots: processes that run cases side by side, each with a database and a broker's number of its
own.
"""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg2
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from acceptance_site.celery import app
from orders.intake import first_start
from tests.crashpoints import service
from tests.crashpoints.clock import clock
from tests.crashpoints.explorer import Case, Explorer, Result
from tests.support.clock import make_clock_shiftable
from tests.support.desk import ann_and_ben

STOP_SECONDS_MAX: Final = 10


class Pool:
    """Runs cases in its slots. Raises RuntimeError when a slot itself fails."""

    def __init__(self, slots: Sequence["Connection[Any, Any]"]) -> None:
        self._slots = slots

    def run(self, cases: Iterable[Case]) -> Iterator[Result]:
        """The results, as they come."""
        waiting, busy = iter(cases), set()
        for slot in self._slots:
            if (case := next(waiting, None)) is not None:
                slot.send(case)
                busy.add(slot)
        while busy:
            ready: Any = wait(list(busy))
            for slot in ready:
                result = _received(slot)
                busy.discard(slot)
                if (case := next(waiting, None)) is not None:
                    slot.send(case)
                    busy.add(slot)
                yield result


def _received(slot: "Connection[Any, Any]") -> Result:
    try:
        found = slot.recv()
    except EOFError:
        raise RuntimeError("a slot ended before its case did: the traceback is above") from None
    assert isinstance(found, Result)
    return found


@contextmanager
def pool(jobs: int) -> Iterator[Pool]:
    """So many slots on databases that are made for them, and dropped at the end."""
    names = [f"crashpoints_{os.getpid()}_{number}" for number in range(jobs)]
    url = settings.DATABASE_URL
    pids: list[int] = []
    slots: list[Connection[Any, Any]] = []
    try:
        _make_databases(url, names)
        service.prepare()
        clock.install()  # into all that is loaded by now
        gc.collect()
        gc.freeze()  # forks share these pages for ever
        for number, name in enumerate(names):
            ours, theirs = Pipe()
            pid = os.fork()
            if not pid:
                for other in (ours, *slots):
                    other.close()
                _serve(theirs, name, number)
            theirs.close()
            pids.append(pid)
            slots.append(ours)
        yield Pool(slots)
    finally:
        for slot in slots:
            slot.close()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        _on_server(url, *(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)' for name in names))


def _serve(channel: "Connection[Any, Any]", database: str, number: int) -> None:
    """A slot's whole life. Never returns."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to deal with
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        connection.settings_dict["NAME"] = database
        broker = urlsplit(settings.BROKER_URL)
        own = broker._replace(path=f"/{int(broker.path.strip('/') or 0) + number}").geturl()
        settings.BROKER_URL = app.conf.broker_url = own  # type: ignore[misc]
        explorer = Explorer()
        while True:
            channel.send(explorer.run(channel.recv()))
    except (EOFError, BrokenPipeError):
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _make_databases(url: str, names: Sequence[str]) -> None:
    first, *others = names
    _on_server(url, f'CREATE DATABASE "{first}"')
    connection.settings_dict["NAME"] = first
    call_command("migrate", verbosity=0)
    first_start.start(0, actor="crash points")
    ann_and_ben()
    make_clock_shiftable()
    connection.close()
    _on_server(url, *(f'CREATE DATABASE "{name}" TEMPLATE "{first}"' for name in others))


def _on_server(url: str, *statements: str) -> None:
    with_database = psycopg2.connect(url)
    with_database.autocommit = True
    try:
        with with_database.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        with_database.close()
