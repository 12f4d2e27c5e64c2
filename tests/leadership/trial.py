"""The field of a trial: servers of its own, contenders that are real processes behind proxies, and
what the database says of their writes.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg2

from stack.launcher import Stack
from stack.ports import LOOPBACK
from stack.rundir import CHECKOUT
from stack.zookeeper import Ensemble, ZooKeeper
from tests.leadership.proxy import Proxy
from tests.support.servers import forget_durability

TABLES = """
    DROP TABLE IF EXISTS fault_writes, fault_refusals;
    CREATE TABLE fault_writes (serial bigserial PRIMARY KEY, term bigint NOT NULL, writer text NOT NULL, believed boolean NOT NULL);
    CREATE TABLE fault_refusals (serial bigserial PRIMARY KEY, term bigint NOT NULL, writer text NOT NULL, believed boolean NOT NULL);
    CREATE INDEX ON fault_writes (term)
"""
# A write's serial is given inside its transaction, under the fence: of two terms the older one's
# are all smaller, or both wrote at one time.
OVERLAPS = """
    SELECT a.term, b.term, a.last, b.first FROM (SELECT term, min(serial) AS first, max(serial) AS last FROM fault_writes GROUP BY term) a
    JOIN (SELECT term, min(serial) AS first FROM fault_writes GROUP BY term) b ON b.term > a.term AND b.first < a.last
"""
TWO_WRITERS = "SELECT term FROM fault_writes GROUP BY term HAVING count(DISTINCT writer) > 1"
FENCE_MS_MAX = 1_000
NEEDLESS = {"BROKER_URL": "redis://127.0.0.1:1/0", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}


@dataclass
class Contender:
    """A process and the proxies through which it reaches the servers."""

    database: Proxy
    zookeepers: list[Proxy]
    environment: Mapping[str, str]
    name: str = ""
    process: "subprocess.Popen[str] | None" = None

    @property
    def proxies(self) -> list[Proxy]:
        """Those between it and where leadership is settled."""
        return self.zookeepers or [self.database]

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.leadership.contender"]
        self.process = subprocess.Popen(
            command, cwd=CHECKOUT, env=dict(self.environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.name = self.process.stdout.readline().strip()
        if not self.name:
            raise RuntimeError(f"a contender ended with {self.process.wait(20)} before it had a name")

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Ends it for good; `start` starts another."""
        self.send(number)
        self.send(signal.SIGCONT)
        assert self.process is not None
        self.process.wait(20)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()

    def shift_clock(self, seconds: float) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"clock {seconds}\n")
        self.process.stdin.flush()


@dataclass
class Trial:
    """A field on servers of its own below `folder`; `with` starts and ends all of it."""

    folder: Path
    zookeepers: int  # 0: the lease in PostgreSQL; 1; 3: an ensemble
    session_seconds: float
    contenders: list[Contender] = field(default_factory=list)
    ensemble: list[ZooKeeper] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._ends = ExitStack()
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a run that is told to end leaves no server behind
        try:
            self._start_database()
            self._start_zookeepers()
            for _ in range(3):
                self._add_contender()
        except BaseException:
            self._ends.close()  # nobody else does, when it doesn't get so far
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for contender in self.contenders:
            contender.end()
        self.database.close()
        self._ends.close()

    def _start_database(self) -> None:
        """On nothing that an earlier run left: its fence may be one that lets all through."""
        environment = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "LEADERSHIP_URL"}}
        self.stack = Stack(self.folder, {**environment, **NEEDLESS})
        self.stack.down()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._ends.callback(self.stack.down)
        self.url = self.stack.up()["DATABASE_URL"]
        forget_durability(self.url)
        self._environment = {
            **environment,
            **NEEDLESS,
            "RUN_DIR": str(self.folder),
            "ZOOKEEPER_SESSION_SECONDS": str(self.session_seconds),
            "LEADER_LEASE_SECONDS": str(self.session_seconds),
            "FENCE_MS_MAX": str(FENCE_MS_MAX),
            "LOG_LEVEL": "ERROR",
        }
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
        subprocess.run(migrate, cwd=CHECKOUT, env={**self._environment, "DATABASE_URL": self.url, "DATABASE_STATEMENT_MS_MAX": "0"}, check=True)
        self._connect()
        self.query(TABLES)

    def _start_zookeepers(self) -> None:
        if self.zookeepers == 1:
            alone = ZooKeeper(self.folder / "zookeeper")
            self._ends.callback(alone.kill)
            alone.start()
            self.ensemble = [alone]
        elif self.zookeepers:
            three = Ensemble(self.folder / "zookeepers")
            self._ends.callback(three.stop)
            three.start()
            self.ensemble = three.servers

    def _add_contender(self) -> None:
        parts = urlsplit(self.url)
        database = Proxy((LOOPBACK, parts.port or 5432))
        self._ends.callback(database.close)
        proxies = [Proxy((LOOPBACK, server.port)) for server in self.ensemble]
        for proxy in proxies:
            self._ends.callback(proxy.close)
        environment = {
            **self._environment,
            "DATABASE_URL": parts._replace(netloc=parts.netloc.replace(str(parts.port), str(database.port))).geturl(),
            "LEADERSHIP_URL": f"zk://{','.join(proxy.address for proxy in proxies)}/acceptance" if proxies else "",
        }
        contender = Contender(database, proxies, environment)
        contender.start()
        self.contenders.append(contender)

    # --- What the database says -------------------------------------------------------------------
    def last_write(self) -> tuple[int, int, str]:
        """(serial, term, writer); zeros and nobody before the first. Patient with a database that
        is away.
        """
        while True:
            try:
                rows = self.query("SELECT serial, term, writer FROM fault_writes ORDER BY serial DESC LIMIT 1")
            except psycopg2.Error:
                time.sleep(0.1)
                self._reconnect()
                continue
            return (rows[0][0], rows[0][1], rows[0][2]) if rows else (0, 0, "")

    def leader(self) -> Contender | None:
        """Who wrote last."""
        writer = self.last_write()[2]
        return next((contender for contender in self.contenders if contender.name == writer), None)

    def await_write(self, *, after: int, seconds: float, besides: str = "") -> float:
        """Seconds until somebody has written after that serial; who is `besides` doesn't count.
        Raises AssertionError when nobody does.
        """
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            serial, _, writer = self.last_write()
            if serial > after and writer != besides:
                return time.monotonic() - began
            time.sleep(0.01)
        raise AssertionError(f"nobody has written for {seconds} s: the service is without a leader")

    def findings(self) -> dict[str, Any]:
        """What the audit looks for, and how much there was to look at."""
        ((writes, terms),) = self.query("SELECT count(*), count(DISTINCT term) FROM fault_writes")
        ((refused, believed),) = self.query("SELECT count(*), count(*) FILTER (WHERE believed) FROM fault_refusals")
        return {
            "writes": writes,
            "terms": terms,
            "refused": refused,
            "refused_though_believed": believed,
            "overlaps": len(self.query(OVERLAPS)),
            "terms_of_two_writers": len(self.query(TWO_WRITERS)),
        }

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement. Raises psycopg2.Error."""
        with self.database.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def _connect(self) -> None:
        self.database = psycopg2.connect(self.url, connect_timeout=2)
        self.database.autocommit = True

    def _reconnect(self) -> None:
        with suppress(psycopg2.Error):
            self._connect()
