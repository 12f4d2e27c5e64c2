"""`manage.py check --deploy` on production's settings: nothing to complain of."""

import os
import subprocess
import sys

from stack.rundir import CHECKOUT

PRODUCTION = {
    "ENVIRONMENT": "production",
    "SECRET_KEY": "kP3v9wq7Zr1xT5mN8bY2cL6dF4gH0jS-aQeRtUiOpWsXzVnMlK",
    "ALLOWED_HOSTS": "clearing.example",
    "DATABASE_URL": "postgresql://acceptance:secret@database.example/acceptance",
    "BROKER_URL": "redis://broker.example/0",
    "KAFKA_BOOTSTRAP_SERVERS": "log.example:9092",
    "INTAKE_SINCE": "2026-01-31T00:00:00+00:00",
    **{f"{name}_URL": f"https://{name.lower()}.example" for name in ("COUNTER", "FUND", "TRADING")},
    **{f"{name}_KEY": "x" * 40 for name in ("COUNTER", "FUND", "TRADING")},
}


def test_the_deployment_check_is_clean() -> None:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG"}}

    ended = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level=WARNING"],
        cwd=CHECKOUT,
        env={**kept, **PRODUCTION},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ended.returncode, "no issues" in ended.stdout) == (0, True), ended.stderr
