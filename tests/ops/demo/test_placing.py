"""Placing orders at a real sandbox's counter: the rate, the mix, and what the audit says of orders
that nobody took in.
"""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

from base.desk.rights import why_not_approve
from ops.demo.placing import Placing, Tally, UnreachableError, Users
from ops.management.commands import demo
from tests.support.sandbox import SandboxServer, running_sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxServer]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox")) as server:
        yield server


@pytest.fixture(autouse=True)
def counter(sandbox: SandboxServer, settings: Settings) -> None:
    settings.COUNTERPARTY_URLS = {name: f"{sandbox.base_url}/{name}" for name in ("counter", "fund", "trading")}


def place(sandbox: SandboxServer, count: int, *, rate: float = 1_000, users: int = 5, **given: Any) -> tuple[Tally, float]:
    options = {"direction": "mixed", "asset": "mixed", "seed": 1, **given}
    placing = Placing(sandbox.counter_url, Users(users, **options), count=count, rate=rate)
    return placing.tally, placing.run()


def run_command(name: str, *arguments: str) -> tuple[int, str]:
    """(exit code, stdout)."""
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            call_command(name, *arguments, stdout=output)
    except SystemExit as ended:
        return int(ended.code or 0), output.getvalue()
    return 0, output.getvalue()


class TestMix:
    def test_four_of_ten_mixed_orders_close_what_was_opened(self, sandbox: SandboxServer) -> None:
        tally, _ = place(sandbox, 200)

        assert tally.placed == 200
        assert 0.3 < tally.kinds["CLOSE"] / 200 < 0.5
        assert not tally.refusals

    def test_orders_of_other_kinds_come_on_top(self, sandbox: SandboxServer) -> None:
        tally, _ = place(sandbox, 200, seed=2)

        assert 0 < tally.misc < 20

    def test_one_direction_and_one_asset(self, sandbox: SandboxServer) -> None:
        before = {order["order_id"] for order in sandbox.open_page("/sandbox/orders?limit=5000")["rows"]}

        place(sandbox, 20, direction="open", asset="ETH")

        placed = [order for order in sandbox.open_page("/sandbox/orders?limit=5000")["rows"] if order["order_id"] not in before]
        assert {(order["direction"], order["asset"]) for order in placed} == {("OPEN", "ETH")}

    def test_the_same_seed_draws_the_same(self) -> None:
        one, other = (Users(9, direction="open", asset="mixed", seed=7) for _ in range(2))

        assert [one.next_order() for _ in range(50)] == [other.next_order() for _ in range(50)]

    def test_closing_without_contracts_is_refused_and_counted(self, sandbox: SandboxServer) -> None:
        placing = Placing(sandbox.counter_url, Users(1, direction="close", asset="BTC", seed=1), count=400, rate=1_000)

        placing.run()

        assert placing.tally.refusals["no_open_contract"] > 0
        assert placing.tally.placed + placing.tally.refusals["no_open_contract"] == 400


class TestRate:
    def test_it_is_kept(self, sandbox: SandboxServer) -> None:
        _, seconds = place(sandbox, 60, rate=40)

        assert seconds == pytest.approx(59 / 40, abs=0.5)

    def test_no_counter_is_told_at_once(self) -> None:
        placing = Placing("http://127.0.0.1:1/counter", Users(1, direction="open", asset="BTC", seed=1), count=1, rate=1)

        with pytest.raises(UnreachableError, match="make up"):
            placing.run()


class TestPlaceOrders:
    def test_it_prints_what_was_placed(self) -> None:
        code, text = run_command("place_orders", "--count", "30", "--rate", "500", "--json")

        assert (code, json.loads(text)["placed"]) == (0, 30)

    def test_refusals_make_it_fail(self) -> None:
        code, _ = run_command("place_orders", "--count", "400", "--users", "1", "--rate", "2000", "--direction", "close", "--asset", "ETH")

        assert code == 1

    @pytest.mark.parametrize("wrong", [("--count", "0"), ("--users", "x"), ("--rate", "0"), ("--rate", "inf"), ("--direction", "up")])
    def test_options_are_checked(self, wrong: tuple[str, str]) -> None:
        with pytest.raises(CommandError):
            call_command("place_orders", *wrong)

    def test_no_counter_is_exit_code_2(self, settings: Settings) -> None:
        settings.COUNTERPARTY_URLS = {"counter": "http://127.0.0.1:1/counter"}

        with pytest.raises(CommandError) as refused:
            call_command("place_orders", "--count", "1")

        assert refused.value.returncode == 2


@pytest.mark.django_db(transaction=True)
class TestAudit:
    def test_orders_that_nobody_took_in_are_missing(self, sandbox: SandboxServer) -> None:
        sandbox.place("1001")

        code, text = run_command("audit", "--json")

        found = json.loads(text)
        assert code == 1
        assert found["missing"]["count"] == found["placed"] > 0

    def test_waiting_for_what_never_clears_ends_in_time(self) -> None:
        code, text = run_command("audit", "--wait", "0.2")

        assert code == 1
        assert "FAILED" in text

    def test_no_sandbox_is_exit_code_2(self, settings: Settings) -> None:
        settings.COUNTERPARTY_URLS = {"counter": "http://127.0.0.1:1/counter"}

        with pytest.raises(CommandError, match="no sandbox answers") as refused:
            call_command("audit")

        assert refused.value.returncode == 2

    def test_a_real_counter_can_not_be_audited(self, settings: Settings) -> None:
        settings.COUNTERPARTY_URLS = {"counter": "https://counter.example/api"}

        with pytest.raises(CommandError, match="can't be audited"):
            call_command("audit")

    def test_an_empty_sandbox_passes(self, tmp_path: Path, settings: Settings) -> None:
        with running_sandbox(tmp_path) as empty:
            settings.COUNTERPARTY_URLS = {"counter": empty.counter_url}

            code, text = run_command("audit")

        assert code == 0
        assert "PASSED: 0 orders cleared" in text


@pytest.mark.parametrize("command", [("demo", "--once"), ("place_orders", "--count", "1")])
def test_commands_for_development_refuse_production(tmp_path: Path, settings: Settings, command: tuple[str, ...]) -> None:
    with running_sandbox(tmp_path) as sandbox:
        settings.COUNTERPARTY_URLS = {"counter": sandbox.counter_url}
        settings.PRODUCTION = True

        with pytest.raises(CommandError, match=f"{command[0]} .* doesn't run in production"):
            call_command(*command)

        assert sandbox.open_page("/sandbox/orders")["rows"] == []


@pytest.mark.django_db
class TestDemo:
    def test_its_admin_gets_a_new_password_each_time(self, django_user_model: Any) -> None:
        first, second = demo.reset_admin(), demo.reset_admin()

        admin = django_user_model.objects.get(username="admin")
        assert first != second
        assert admin.check_password(second)
        assert admin.is_superuser
        assert why_not_approve(django_user_model.objects.get(username=demo.APPROVES).pk)[0] == "not_settled"  # 0 hours with the sandbox
