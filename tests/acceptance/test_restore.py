"""PostgreSQL is lost and comes back from an older backup: the runbook's steps bring every order
back, and no step is done twice.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest

from stack.postgres import installed
from stack.rundir import CHECKOUT
from tests.support.service import WITHOUT_WEB, LiveService, live_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes
SECONDS_MAX = 60
OURS = [name for name in WITHOUT_WEB if name != "sandbox"]  # whoever works on the database


@pytest.fixture(scope="module")
def service() -> Iterator[LiveService]:
    with live_service(CHECKOUT / ".run" / "restore", services=WITHOUT_WEB) as running:
        yield running


def postgres_tool(name: str, *arguments: str) -> None:
    """Runs one of PostgreSQL's own programs."""
    command = [str(installed() / "pginstall" / "bin" / name), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, env={"PATH": os.environ["PATH"]})
    assert ended.returncode == 0, f"{name}: {ended.stderr}"


def restore(database_url: str, backup: Path) -> None:
    """Puts the backup in the database's place, under whoever is connected."""
    server, _, name = database_url.rpartition("/")
    postgres_tool("dropdb", f"--maintenance-db={server}/postgres", "--force", name)
    postgres_tool("createdb", f"--maintenance-db={server}/postgres", name)
    postgres_tool("pg_restore", f"--dbname={database_url}", "--exit-on-error", str(backup))


def asked(database_url: str) -> int:
    """How many questions were put to the counterparties."""
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM clearing_attempt WHERE asked AND outcome = 'done'")
        (found,) = cursor.fetchone() or (0,)
        return int(found)


def test_nothing_is_marked_while_a_process_works_on_the_database(service: LiveService) -> None:
    ended = service.manage("mark_restored", "--reason=test", check=False)

    assert ended.returncode == 2
    assert "stop every process" in ended.stderr


def test_every_order_comes_back_and_none_is_cleared_twice(service: LiveService, tmp_path: Path) -> None:
    database_url, backup = service.variable("DATABASE_URL"), tmp_path / "backup"
    before_the_backup = datetime.now(UTC) - timedelta(seconds=30)
    with service.placing(120, users=20, rate=60):
        wait_until(lambda: service.cleared() > 0)
        postgres_tool("pg_dump", "--format=custom", f"--file={backup}", database_url)
    service.place(120, users=20, rate=60, seed=2)  # these the backup surely doesn't hold
    service.audit()
    service.manage("stack", "services", "down", *OURS)
    restore(database_url, backup)

    marked = json.loads(service.manage("mark_restored", "--reason=test", "--json").stdout)
    replayed = json.loads(service.manage("replay", f"--from-time={before_the_backup.isoformat()}", "--restored", "--json").stdout)
    service.manage("compensate", f"--since={before_the_backup.isoformat()}")
    service.manage("stack", "services", "up", *WITHOUT_WEB)

    report = service.audit()
    assert (report["placed"], report["cleared"], report["doubled"]["count"]) == (240, 240, 0)
    assert replayed["new"] > 0
    assert replayed["known"] > 0
    assert marked["through_ms"] > before_the_backup.timestamp() * 1000
    assert asked(database_url) > 0
    service.manage("reconcile", "--hours=1")


def test_a_restore_point_that_the_backup_holds_is_not_this_restore_s(service: LiveService, tmp_path: Path) -> None:
    """The last of the module: it leaves the processes down."""
    database_url, backup = service.variable("DATABASE_URL"), tmp_path / "backup"
    service.manage("stack", "services", "down", *OURS)
    service.manage("mark_restored", "--reason=an earlier restore")
    postgres_tool("pg_dump", "--format=custom", f"--file={backup}", database_url)
    restore(database_url, backup)

    refused = service.manage("replay", "--order-id=NONE", "--restored", check=False)
    service.manage("mark_restored", "--reason=this restore")
    taken = service.manage("replay", "--order-id=NONE", "--restored", check=False)

    assert (refused.returncode, taken.returncode) == (2, 1)  # 1: no such order
    assert "mark_restored" in refused.stderr
