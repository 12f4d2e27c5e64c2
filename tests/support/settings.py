"""Processes that read settings.py under an environment of their own."""

import os
import subprocess
import sys

from stack.rundir import CHECKOUT

COMPLETE = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "a-long-random-text",
    "ALLOWED_HOSTS": "desk.example",
    "DATABASE_URL": "postgresql://a@db.example/acceptance",
    "BROKER_URL": "redis://broker.example/0",
    "KAFKA_BOOTSTRAP_SERVERS": "log.example:9092",
    "INTAKE_SINCE": "2026-01-01T00:00:00+00:00",
    **{f"{name}_{what}": f"https://{name}.example" for name in ("COUNTER", "FUND", "TRADING") for what in ("URL", "KEY")},
}


def started_with(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, or reads the settings alone, as a process with this environment does."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        command or [sys.executable, "-c", "import acceptance_site.settings"],
        cwd=CHECKOUT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
