import json
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tests.stack.conftest import NAMED


def run(*words: str) -> str:
    output = StringIO()
    call_command("stack", *words, stdout=output)
    return output.getvalue()


class TestStackCommand:
    @pytest.fixture(autouse=True)
    def named_servers(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RUN_DIR", str(folder))
        for name, value in NAMED.items():
            monkeypatch.setenv(name, value)
        for name in ("COUNTER_URL", "FUND_URL", "TRADING_URL", "SANDBOX_PORT", "WEB_PORT"):
            monkeypatch.delenv(name, raising=False)

    def test_env_prints_what_a_shell_can_read(self) -> None:
        run("up")

        lines = run("env").splitlines()

        ports = json.loads(run("env", "--json"))
        assert f"export COUNTER_URL=http://127.0.0.1:{ports['SANDBOX_PORT']}/counter" in lines

    def test_status_shows_servers_and_services(self) -> None:
        run("up")

        shown = json.loads(run("status", "--json"))

        assert {server["state"] for server in shown["servers"]} == {"named"}
        assert {service["state"] for service in shown["services"]} == {"stopped"}

    def test_status_has_an_exit_code_of_its_own_when_a_server_is_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BROKER_URL")

        with pytest.raises(SystemExit) as ended:
            run("status")

        assert ended.value.code == 3

    def test_what_is_wrong_is_said_without_a_traceback(self) -> None:
        with pytest.raises(CommandError, match=r"run `manage\.py stack up` first"):
            run("env")
