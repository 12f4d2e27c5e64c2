"""Processes that read settings.py under an environment of their own."""

import os
import subprocess
import sys

from stack.rundir import CHECKOUT

COMPLETE = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "kP3v9wq7Zr1xT5mN8bY2cL6dF4gH0jS-aQeRtUiOpWsXzVnMlK",
    "ALLOWED_HOSTS": "desk.example",
    "PROXY_COUNT": "1",
    "DATABASE_URL": "postgresql://a@db.example/acceptance?sslmode=verify-full",
    "BROKER_URL": "rediss://:pw@broker.example/0?ssl_cert_reqs=required",
    "KAFKA_BOOTSTRAP_SERVERS": "log.example:9092",
    "KAFKA_SECURITY_PROTOCOL": "SSL",
    "INTAKE_SINCE": "2026-01-01T00:00:00+00:00",
    "INTAKE_MAC_SINCE": "2026-01-01T00:00:00+00:00",
    "INTAKE_KEYS": "2026a:n4Hb8Wq1Zt6Yk3Rv9Xc5Mp7Dj2Gs0LfQ",
    **{f"{name}_URL": f"https://{name.lower()}.example" for name in ("COUNTER", "FUND", "TRADING")},
    **{f"{name}_KEY": f"{name}-m3Xq8vT1bN6yR4kZ9wP2cL7dF5gH0jSa" for name in ("COUNTER", "FUND", "TRADING")},
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
