"""Readiness: a few cheap probes, each with a name, a time limit of its own and the fix when it
fails.

A probe that fails makes the process not ready (503), except where it only warns: without Kafka the
web process serves, and gap compensation brings the orders. Probes run beside each other, so a
request takes as long as the slowest, never their sum. What they found is good for two seconds, and
nobody probes while somebody else does: however often a stranger asks, it costs the servers nothing.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from time import monotonic

import psycopg2
import redis
from django.conf import settings
from django.db import connections
from django.db.migrations.loader import MigrationLoader

from orders.intake.first_start import COMMAND, IS_STARTED

PROBE_SECONDS_MAX = 2.0  # of each; an orchestrator's own limit should lie above
GOOD_SECONDS = 2.0


class ProbeError(Exception):
    """What a probe found; the text goes into the answer."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A named check that raises when it fails, and what to do then."""

    name: str
    check: Callable[[], None]
    fix: str
    only_warns: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """How a probe went."""

    probe: Probe
    error: str
    milliseconds: float

    @property
    def status(self) -> str:
        """ok, warning or failed."""
        if not self.error:
            return "ok"
        return "warning" if self.probe.only_warns else "failed"

    def as_dict(self) -> dict[str, object]:
        """For the answer's JSON; the fix only where one is needed."""
        found: dict[str, object] = {"status": self.status, "ms": round(self.milliseconds, 1)}
        return found | {"error": self.error, "fix": self.probe.fix} if self.error else found


def _connect() -> psycopg2.extensions.connection:
    """A connection of the probe's own with short limits, so that a frozen database can't hold the
    web process's.
    """
    parameters = dict(connections["default"].get_connection_params())
    for ours in ("cursor_factory", "context", "prepare_threshold"):
        parameters.pop(ours, None)
    limits = f"-c statement_timeout={int(PROBE_SECONDS_MAX * 1000)} -c lock_timeout=500"
    connection: psycopg2.extensions.connection = psycopg2.connect(**{**parameters, "connect_timeout": 2, "options": limits})
    return connection


def check_database() -> None:
    """A new connection answers."""
    connection = _connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT service_now()")
    finally:
        connection.close()


@cache
def disk_migrations() -> frozenset[tuple[str, str]]:
    """The migrations of this code, which doesn't change while it runs."""
    return frozenset(MigrationLoader(None).disk_migrations)


def check_migrations() -> None:
    """Every migration of this code is applied. Raises ProbeError with what is missing."""
    connection = _connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT app, name FROM django_migrations")
            applied = set(cursor.fetchall())
    finally:
        connection.close()
    missing = sorted(disk_migrations() - applied)
    if missing:
        raise ProbeError(f"not applied: {', '.join('.'.join(key) for key in missing[:5])}{' …' if len(missing) > 5 else ''}")  # noqa: PLR2004


def check_first_start() -> None:
    """The database may accept orders. Raises ProbeError before somebody has said since when."""
    connection = _connect()
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {IS_STARTED}")
            (started,) = cursor.fetchone() or (False,)
    finally:
        connection.close()
    if not started:
        raise ProbeError("this database holds no order, and nobody has said since when it shall accept them: it accepts none")


def check_broker() -> None:
    """The broker takes a connection and answers."""
    limit = PROBE_SECONDS_MAX / 2
    with redis.Redis.from_url(settings.BROKER_URL, socket_timeout=limit, socket_connect_timeout=limit) as client:
        client.ping()


def check_kafka() -> None:
    """One of the bootstrap servers takes a connection. Raises ProbeError with each one's error."""
    errors = []
    for server in settings.KAFKA_BOOTSTRAP_SERVERS:
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=PROBE_SECONDS_MAX / 2).close()
        except (OSError, ValueError) as error:
            errors.append(f"{server}: {error}")
        else:
            return
    raise ProbeError("; ".join(errors))


PROBES: tuple[Probe, ...] = (
    Probe("database", check_database, "start PostgreSQL (manage.py stack up) or correct DATABASE_URL"),
    Probe("migrations", check_migrations, "run: DATABASE_STATEMENT_MS_MAX=0 manage.py migrate"),
    Probe("first_start", check_first_start, f"run: {COMMAND}; if there were orders before, DATABASE_URL names another database, or it was lost"),
    Probe("broker", check_broker, "start Redis or Valkey (manage.py stack up) or correct BROKER_URL; orders wait in the database meanwhile"),
    Probe(
        "kafka",
        check_kafka,
        "start Kafka (manage.py stack up) or correct KAFKA_BOOTSTRAP_SERVERS; gap compensation brings the orders meanwhile",
        only_warns=True,
    ),
)


def _run(probe: Probe) -> Result:
    began = monotonic()
    error = ""
    try:
        probe.check()
    except Exception as failure:
        error = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
    return Result(probe, error, (monotonic() - began) * 1000)


def run_probes(probes: Sequence[Probe] = PROBES, *, seconds_max: float = PROBE_SECONDS_MAX) -> list[Result]:
    """Runs them beside each other. One that isn't back in time has failed; its thread ends by the
    probe's own limits.
    """
    pool = ThreadPoolExecutor(max_workers=len(probes), thread_name_prefix="probe")
    deadline = monotonic() + seconds_max
    runs = [(probe, pool.submit(_run, probe)) for probe in probes]
    results = [_collect(probe, run, deadline, seconds_max) for probe, run in runs]
    pool.shutdown(wait=False, cancel_futures=True)
    return results


def _collect(probe: Probe, run: "Future[Result]", deadline: float, seconds_max: float) -> Result:
    try:
        return run.result(timeout=max(deadline - monotonic(), 0))
    except TimeoutError:
        return Result(probe, f"no answer within {seconds_max:g} s", seconds_max * 1000)


class Latest:
    """What the probes of this process found last."""

    def __init__(self, run: Callable[[], list[Result]] = run_probes) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._found: tuple[float, list[Result]] | None = None

    def results(self) -> list[Result]:
        """Probes again where the last result is too old. Whoever asks meanwhile gets that one; only
        a process that has none yet lets everybody wait.
        """
        found = self._found
        if found is not None and (monotonic() - found[0] < GOOD_SECONDS or not self._lock.acquire(blocking=False)):
            return found[1]
        if found is None:
            self._lock.acquire()
        try:
            if self._found is found:
                self._found = (monotonic(), self._run())
            return self._found[1] if self._found else []
        finally:
            self._lock.release()


latest = Latest()
