"""What the tests ask of their own servers beyond what an operator would."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import redis

from stack.rundir import take


class BusyError(Exception):
    """Another run has the folder; the text says what to do."""


@contextmanager
def only_run_in(folder: Path) -> Iterator[None]:
    """Holds the folder as a test run does, so that neither another run nor `make down` touches its
    servers. Raises BusyError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pytest.lock").open("a") as lock:
        if not take(lock.fileno()):
            raise BusyError(f"another run is in progress in {folder}: wait for its end, or stop it with Ctrl-C")
        yield


def forget_durability(database_url: str) -> None:
    """The PostgreSQL of a test needn't outlive the machine, only its own processes: without waiting
    for a disk that others keep busy.
    """
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute("ALTER SYSTEM SET fsync = off")
            cursor.execute("SELECT pg_reload_conf()")
    finally:
        connection.close()


def forget_messages(broker_url: str) -> None:
    """The broker of a test that never restarts it: without a file on a disk that others keep
    busy.
    """
    client = redis.Redis.from_url(broker_url)
    client.config_set("appendonly", "no")
    client.close()
