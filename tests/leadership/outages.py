"""The whole service while ZooKeeper is down for a minute, and then PostgreSQL for 20 s, with orders
coming in all the time (make outages).
"""

import argparse
import json
import shutil
import signal
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg2

from benchmarks.machine import Rate, slowness
from stack.launcher import Stack
from stack.processes import gone
from stack.procfile import read_procfile
from stack.rundir import CHECKOUT
from stack.zookeeper import ZooKeeper, missing
from tests.support.service import LiveService, live_service

RATE_MAX: Final = 40.0  # orders a second, unless told otherwise
AROUND_SECONDS: Final = 10  # of orders before, between and after the outages
AUDIT_SECONDS: Final = 120
PLACING_SECONDS_MORE: Final = 60
OURS: Final = [name for name in read_procfile(CHECKOUT / "Procfile") if name != "sandbox"]
EPILOG: Final = """example:
  python -m tests.leadership.outages --zookeeper 60 --postgres 20

exit code: 0 the audit found nothing, orders went on without ZooKeeper, no claims were seized, no process ended; 1 otherwise; 3 no ZooKeeper"""


def count(service: LiveService, sql: str) -> int:
    """The number that the statement gives."""
    with closing(psycopg2.connect(service.variable("DATABASE_URL"))) as session, session.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
        assert row is not None
        return int(row[0])


def cleared(service: LiveService) -> int:
    return count(service, "SELECT count(*) FROM clearing_clearing WHERE state = 'cleared'")


def seized(service: LiveService) -> int:
    """Claims that were taken from a worker."""
    return count(service, "SELECT count(*) FROM clearing_attempt WHERE outcome = 'lost'")


def terms(service: LiveService) -> int:
    return count(service, "SELECT term FROM base_leaderterm")


def without_zookeeper(service: LiveService, server: ZooKeeper, seconds: float) -> dict[str, Any]:
    """Kills it, looks at what goes on, and starts it again."""
    before, lost = cleared(service), seized(service)
    server.kill()
    time.sleep(seconds)
    found = {"seconds": seconds, "cleared_meanwhile": cleared(service) - before, "claims_seized": seized(service) - lost}
    server.start()
    return found


def without_postgres(service: LiveService, seconds: float) -> dict[str, Any]:
    """Stops it hard, and starts it again."""
    stack = Stack(service.folder, dict(service.environment))
    process = psutil.Process(stack.run_dir.recall().servers["postgres"].pid)
    process.send_signal(signal.SIGQUIT)
    gone(process, seconds=20)
    time.sleep(seconds)
    stack.up()
    return {"seconds": seconds}


def run(folder: Path, zookeeper_seconds: float, postgres_seconds: float, given_rate: float | None = None) -> dict[str, Any]:
    """Brings all of it up, breaks it twice, and has the audit look. `given_rate`: orders a second;
    None takes a share of what the machine holds.
    """
    shutil.rmtree(folder / "zookeeper", ignore_errors=True)
    server = ZooKeeper(folder / "zookeeper")
    server.start()
    try:
        with live_service(folder / "service", LEADERSHIP_URL=f"zk://{server.address}/acceptance") as service:
            rate = Rate(given_rate) if given_rate else Rate.of(service.held(), RATE_MAX)
            sys.stderr.write(f"{rate}; {slowness()}\n")
            orders = int(rate.places * (3 * AROUND_SECONDS + zookeeper_seconds + postgres_seconds))
            seconds = slowness().scaled(2 * orders / rate.places + PLACING_SECONDS_MORE)
            pids = {name: service.pid(name) for name in OURS}
            with service.placing(orders, users=200, rate=rate.places, seconds=seconds):
                time.sleep(AROUND_SECONDS)
                found: dict[str, Any] = {
                    "orders": orders,
                    "rate": rate.places,
                    "machine": rate.as_json(),
                    "zookeeper": without_zookeeper(service, server, zookeeper_seconds),
                }
                time.sleep(AROUND_SECONDS)
                found["zookeeper"]["term_afterwards"] = terms(service)
                found["postgres"] = without_postgres(service, postgres_seconds)
            audit_seconds = int(slowness().scaled(AUDIT_SECONDS))
            ended = service.manage("audit", "--json", f"--wait={audit_seconds}", check=False, seconds=2 * audit_seconds)
            report = json.loads(ended.stdout)
            found["audit"] = {"exit_code": ended.returncode, **{name: report[name] for name in ("placed", "cleared", "to_cleared")}}
            found["processes_that_ended"] = sorted(name for name, pid in pids.items() if service.pid_or_none(name) != pid)
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
    zookeeper = found["zookeeper"]
    healthy = zookeeper["cleared_meanwhile"] > rate.places * zookeeper_seconds / 2 and not zookeeper["claims_seized"]
    return {**found, "passed": healthy and not found["audit"]["exit_code"] and not found["processes_that_ended"]}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.leadership.outages", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zookeeper", type=float, default=60.0, metavar="SECONDS", help="how long ZooKeeper is down (%(default)s)")
    parser.add_argument("--postgres", type=float, default=20.0, metavar="SECONDS", help="how long PostgreSQL is down (%(default)s)")
    parser.add_argument("--rate", type=float, help=f"orders a second (half of what the machine holds, at most {RATE_MAX:g})")
    options = parser.parse_args()
    reason = missing()
    if reason:
        sys.stderr.write(f"outages: {reason}\n")
        return 3
    found = run(CHECKOUT / ".run" / "outages", options.zookeeper, options.postgres, options.rate)
    sys.stdout.write(json.dumps(found) + "\n")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
