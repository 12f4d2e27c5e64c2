"""Web as it is run: strangers at its public port, the monitoring at METRICS_PORT."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from django.db import connection

from stack.ports import find_free
from stack.rundir import CHECKOUT
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """(public, internal) of a running web process."""
    taken: set[int] = set()
    public = find_free(taken)
    internal = find_free({*taken, public})
    found = connection.settings_dict
    password = f":{found['PASSWORD']}" if found["PASSWORD"] else ""
    environment = {
        **os.environ,
        "DATABASE_URL": f"postgresql://{found['USER']}{password}@{found['HOST'] or '127.0.0.1'}:{found['PORT']}/{found['NAME']}",
        "MONITORING_TOKEN": "a-token-of-the-monitoring",
        "METRICS_PORT": str(internal),
        "METRICS_DIR": "",
        "PROCESS_ROLE": "web",
    }
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{public}", "--workers", "1", "--threads", "2"]
    web = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: status(public, "/healthz") == 200, seconds=60)
        yield public, internal
    finally:
        web.terminate()
        web.wait(30)


def opened(port: int, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def status(port: int, path: str) -> int:
    try:
        return opened(port, path)[0]
    except OSError:
        return 0


def test_tells_the_monitoring_all_and_strangers_one_word(ports: tuple[int, int]) -> None:
    public, internal = ports

    assert "probes" not in json.loads(opened(public, "/readyz")[1])
    assert opened(public, "/metrics") == (401, b"")
    assert "database" in json.loads(opened(internal, "/readyz")[1])["probes"]
    assert b"acceptance_scrape_ok" in opened(internal, "/metrics")[1]
