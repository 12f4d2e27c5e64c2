"""How long the migration of a large database takes, and which locks it holds meanwhile:
`python -m tests.upgrade.locks --from COMMIT --orders 1000000`. The figures stand in
docs/upgrading.md.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
from rich.console import Console

from stack.rundir import CHECKOUT
from tests.support import bulk
from tests.upgrade.release import LAST_RELEASE, Release, UpgradeError, resolve, worktree

EXIT_NOT_DONE = 2
SAMPLE_SECONDS = 0.002
COMMAND_SECONDS_MAX = 3600
LOCKS_SQL = """
    SELECT c.relname, l.mode FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE l.granted AND l.pid <> pg_backend_pid() AND c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
"""


@dataclass
class LockSampler:
    """Looks at the granted locks that stop readers or writers, as often as it can. `held`: for each
    table and mode, the longest time in a row (seconds).
    """

    database_url: str
    held: dict[tuple[str, str], float] = field(default_factory=dict)
    samples: int = 0

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Samples while the block runs."""
        over = threading.Event()
        thread = threading.Thread(target=self._sample, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _sample(self, over: threading.Event) -> None:
        session = psycopg2.connect(self.database_url)
        session.autocommit = True
        since: dict[tuple[str, str], float] = {}
        with session.cursor() as cursor:
            while not over.wait(SAMPLE_SECONDS):
                cursor.execute(LOCKS_SQL)
                now, seen = time.monotonic(), set(cursor.fetchall())
                self.samples += 1
                since = {lock: since.get(lock, now) for lock in seen}
                for lock, first in since.items():
                    self.held[lock] = max(self.held.get(lock, 0.0), now - first)
        session.close()


def fill(database_url: str, orders: int) -> None:
    """Creates so many orders in a database of the old release, most of them cleared."""
    session = psycopg2.connect(database_url, options="-c statement_timeout=0 -c synchronous_commit=off")
    with session, session.cursor() as cursor:
        cursor.execute("SET LOCAL work_mem = '256MB'; SET LOCAL session_replication_role = replica")  # no foreign keys are checked
        for sql in bulk.STATEMENTS:
            cursor.execute(sql, {"count": orders, "users": max(200, orders // 1000)})
    session.autocommit = True
    with session.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")
    session.close()


def measure(commit: str, orders: int, console: Console) -> dict[str, Any]:
    """The figures. Raises UpgradeError."""
    with tempfile.TemporaryDirectory(prefix="upgrade-") as name, ExitStack() as ends:
        folder = Path(name)
        checkout = ends.enter_context(worktree(commit, folder))
        named = {"BROKER_URL": "redis://127.0.0.1:1/0", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}  # PostgreSQL alone is needed
        old = Release("old", checkout, checkout / ".venv" / "bin" / "python", folder / "old", named)
        ends.callback(old.manage, "stack", "down", expect=None)
        old.manage("stack", "up")
        url = json.loads(old.manage("stack", "env", "--json").stdout)["DATABASE_URL"]
        new = Release("new", CHECKOUT, Path(sys.executable), folder / "new", {**named, "DATABASE_URL": url})
        old.migrate()
        began = time.monotonic()
        fill(url, orders)
        console.print(f"{orders:,} orders of {commit[:9]} in {time.monotonic() - began:.0f} s", highlight=False)
        sampler, began = LockSampler(url), time.monotonic()
        with sampler.sampling():
            new.migrate(seconds=COMMAND_SECONDS_MAX)
        seconds = time.monotonic() - began
        began = time.monotonic()
        new.migrate()
        nothing_to_do = time.monotonic() - began
    locks = [{"table": table, "mode": mode, "seconds": round(held, 3)} for (table, mode), held in sorted(sampler.held.items())]
    figures = {"from": commit, "orders": orders, "migrate_seconds": round(seconds, 2), "second_migrate_seconds": round(nothing_to_do, 2)}
    return {**figures, "samples": sampler.samples, "locks": locks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--from", dest="commit", default=LAST_RELEASE, metavar="COMMIT", help="the release to upgrade from (%(default)s)")
    parser.add_argument("--orders", type=int, default=1_000_000, help="orders in the database (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    console = Console(stderr=True)
    try:
        figures = measure(resolve(options.commit), options.orders, console)
    except UpgradeError as error:
        console.print(str(error), markup=False, highlight=False)
        return EXIT_NOT_DONE
    if options.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return 0
    sys.stdout.write(f"migrate of {figures['orders']:,} orders: {figures['migrate_seconds']} s; once more, with nothing to do: ")
    sys.stdout.write(f"{figures['second_migrate_seconds']} s; locks that stop writers, of {figures['samples']} samples:\n")
    for lock in figures["locks"]:
        sys.stdout.write(f"  {lock['table']}: {lock['mode']} for {lock['seconds']} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
