"""Production doesn't start half configured."""

import os
import subprocess
import sys

import pytest

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


def started_with(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Reads the settings as a process with this environment does."""
    command = [sys.executable, "-c", "import acceptance_site.settings"]
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(command, cwd=CHECKOUT, env={**inherited, **environment}, capture_output=True, text=True, check=False, timeout=60)


class TestProduction:
    def test_starts_with_everything_set(self) -> None:
        ended = started_with(COMPLETE)

        assert ended.returncode == 0, ended.stderr

    @pytest.mark.parametrize("missing", [name for name in COMPLETE if name != "ENVIRONMENT"])
    def test_refuses_to_start_without_any_of_it_and_names_it(self, missing: str) -> None:
        ended = started_with({name: value for name, value in COMPLETE.items() if name != missing})

        assert ended.returncode != 0
        assert f"{missing} is not set" in ended.stderr

    def test_refuses_debug(self) -> None:
        assert "DEBUG is on" in started_with({**COMPLETE, "DEBUG": "true"}).stderr

    def test_an_environment_that_does_not_exist_is_refused(self) -> None:
        assert "ENVIRONMENT is 'staging'" in started_with({"ENVIRONMENT": "staging"}).stderr

    @pytest.mark.parametrize("variable", ["FENCE_MS_MAX", "LEADER_LEASE_SECONDS"])
    def test_limits_that_would_limit_nothing_are_refused(self, variable: str) -> None:
        assert f"{variable} is 0: set it to" in started_with({**COMPLETE, variable: "0"}).stderr

    def test_a_key_that_is_too_old_before_its_last_request_can_have_ended_is_refused(self) -> None:
        """A claim of 12 s, a signature valid for 30, clocks 10 s apart and a call of 5 s."""
        assert "KEY_RETENTION_SECONDS is 56: set it to 57 or more" in started_with({**COMPLETE, "KEY_RETENTION_SECONDS": "56"}).stderr
