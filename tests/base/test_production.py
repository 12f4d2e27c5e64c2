"""What production refuses: what is short, shared, plain or half a toy. All of it is in the one list
of problems, and no value is ever shown.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance_site.configuration import EXIT_CONFIGURATION
from stack.rundir import CHECKOUT
from tests.base.test_settings import Read, read  # noqa: F401 - a fixture
from tests.support.settings import COMPLETE, started_with

KEY = "an-Ordinary-s3cret-of-40-characters-0123"
ZOOKEEPER = "zk://zk.example:2181/acceptance"
HOOK = {"ALARM_WEBHOOK_URL": "https://hooks.example/x", "ALARM_WEBHOOK_KEY": KEY}
REFUSED = [
    ({"COUNTER_URL": "http://counter.example"}, "COUNTER_URL is plain HTTP"),
    ({"FUND_URL": "http://10.0.0.7:8080/s3cret"}, "FUND_URL is plain HTTP"),
    ({"TRADING_URL": "http://localhost.example"}, "TRADING_URL is plain HTTP"),
    ({**HOOK, "ALARM_WEBHOOK_URL": "http://hooks.example/s3cret"}, "ALARM_WEBHOOK_URL is plain HTTP"),
    ({"FUND_URL": "https://me:s3cret@fund.example"}, "FUND_URL can't be used as it is"),
    ({"COUNTER_KEY": "s3cret" + "x" * 25}, "COUNTER_KEY is too short"),
    ({"TRADING_KEY": "k"}, "TRADING_KEY is too short"),
    ({**HOOK, "ALARM_WEBHOOK_KEY": "s3cret"}, "ALARM_WEBHOOK_KEY is too short"),
    ({"COUNTER_KEY": KEY, "FUND_KEY": KEY}, "FUND_KEY is the same as COUNTER_KEY"),
    ({**HOOK, "TRADING_KEY": KEY}, "ALARM_WEBHOOK_KEY is the same as TRADING_KEY"),
    ({"SECRET_KEY": "s3cret" + "x" * 43}, "SECRET_KEY is too short"),
    ({"SECRET_KEY": KEY * 2, "FUND_KEY": KEY * 2}, "SECRET_KEY is the same as FUND_KEY"),
    ({"ALLOWED_HOSTS": "desk.example,*"}, "ALLOWED_HOSTS holds *"),
    ({"PROXY_COUNT": ""}, "PROXY_COUNT is not set"),
    ({"INTAKE_MAC": "off"}, "INTAKE_MAC is off"),
    ({"INTAKE_KEYS": ""}, "INTAKE_KEYS is not set"),
    ({"INTAKE_MAC_SINCE": ""}, "INTAKE_MAC_SINCE is not set"),
    ({"INTAKE_KEYS": "a:s3cret-of-24-characters"}, "INTAKE_KEYS (a) is too short"),
    ({"INTAKE_KEYS": f"a:{KEY}", "FUND_KEY": KEY}, "INTAKE_KEYS (a) is the same as FUND_KEY"),
    ({"GATEWAY_KIND": "tests.s3cret.fake_gateways"}, "GATEWAY_KIND is not http"),
    ({"FUND_URL": "https://sandbox.example/fund"}, "FUND_URL leads to a sandbox, COUNTER_URL, TRADING_URL not"),
    ({"FUND_URL": "https://sandbox/fund", "TRADING_URL": "https://sandbox/trading"}, "FUND_URL, TRADING_URL lead to a sandbox, COUNTER_URL not"),
    ({"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, "KAFKA_SECURITY_PROTOCOL is not encrypted"),
    (
        {
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            **{f"KAFKA_SASL_{name}": value for name, value in (("MECHANISM", "PLAIN"), ("USERNAME", "me"), ("PASSWORD", "s3cret"))},
        },
        "KAFKA_SECURITY_PROTOCOL is not encrypted",
    ),
    ({"DATABASE_URL": "postgresql://a:s3cret@db.example/acceptance"}, "DATABASE_URL doesn't ask who the server is"),
    ({"DATABASE_URL": "postgresql://a:s3cret@db.example/acceptance?sslmode=require"}, "DATABASE_URL doesn't ask who the server is"),
    ({"BROKER_URL": "redis://:s3cret@broker.example/0"}, "BROKER_URL doesn't ask who the server is"),
    ({"BROKER_URL": "rediss://:s3cret@broker.example/0"}, "BROKER_URL doesn't ask who the server is"),
    ({"BROKER_URL": "rediss://:s3cret@broker.example/0?ssl_cert_reqs=none"}, "BROKER_URL doesn't ask who the server is"),
    ({"BROKER_URL": "rediss://broker.example/0?ssl_cert_reqs=required"}, "BROKER_URL holds no password"),
    ({"BROKER_URL": "redis://broker.example/0", "BROKER_PLAINTEXT": "true"}, "BROKER_URL holds no password"),
    ({"BROKER_URL": "redis://broker.example/0"}, "BROKER_URL doesn't ask who the server is and holds no password"),
    ({"LEADERSHIP_URL": ZOOKEEPER}, "ZOOKEEPER_SSL_CAFILE is not set"),
]
TAKEN = [
    {f"{name}_URL": f"http://127.0.0.1:81{n}0/api" for n, name in enumerate(("COUNTER", "FUND", "TRADING"))},  # to a proxy with TLS, say
    {"COUNTER_URL": "http://localhost:8100", "FUND_URL": "http://[::1]:8100", "TRADING_URL": "https://trading.example"},
    {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT", "KAFKA_PLAINTEXT": "true"},
    {"KAFKA_SECURITY_PROTOCOL": "PLAINTEXT", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092,[::1]:9092"},
    {"DATABASE_URL": "postgresql://a:s@db.example/acceptance", "DATABASE_PLAINTEXT": "true"},
    {"DATABASE_URL": "postgresql://a:s@127.0.0.1/acceptance"},
    {"DATABASE_URL": "postgresql://%2Frun%2Fpostgresql/acceptance"},
    {"BROKER_URL": "redis://:s@broker.example/0", "BROKER_PLAINTEXT": "true"},
    {"BROKER_URL": "redis://localhost/0"},
    {"BROKER_URL": "rediss://broker.example/0?ssl_cert_reqs=required&ssl_certfile=/c.pem&ssl_keyfile=/k.pem"},
    {"LEADERSHIP_URL": ZOOKEEPER, "ZOOKEEPER_PLAINTEXT": "true"},
    {"LEADERSHIP_URL": ZOOKEEPER, "ZOOKEEPER_SSL_CAFILE": "manage.py"},
    HOOK,
]


class TestProduction:
    @pytest.mark.parametrize(("variables", "says"), REFUSED, ids=[says for _, says in REFUSED])
    def test_refuses_it_and_shows_no_value(self, read: Read, variables: dict[str, str], says: str) -> None:  # noqa: F811
        values, said = read(**variables)

        assert values == {}
        assert len(said) == 2, said
        assert said[1].startswith(says)
        assert "s3cret" not in said[1]

    @pytest.mark.parametrize("variables", TAKEN)
    def test_takes_what_is_encrypted_or_stays_here_or_is_named_aloud(self, read: Read, variables: dict[str, str]) -> None:  # noqa: F811
        values, said = read(**variables)

        assert said == []
        assert values["PRODUCTION"]

    def test_names_all_of_it_at_once(self, read: Read) -> None:  # noqa: F811
        slip = {f"{name}_URL": f"http://{name.lower()}.example" for name in ("COUNTER", "FUND", "TRADING")}
        slip |= {f"{name}_KEY": "k" for name in ("COUNTER", "FUND", "TRADING")}

        _, said = read(**slip, SECRET_KEY="x", ALLOWED_HOSTS="*", BROKER_URL="redis://b.example/0", DATABASE_URL="postgresql://a@d.example/a")

        assert [line.split()[0] for line in said[1:]] == [
            *("ALLOWED_HOSTS", "COUNTER_URL", "FUND_URL", "TRADING_URL", "COUNTER_KEY", "FUND_KEY", "TRADING_KEY", "SECRET_KEY"),
            *("DATABASE_URL", "BROKER_URL"),
        ]

    def test_development_takes_all_of_it(self, read: Read) -> None:  # noqa: F811
        for variables, says in REFUSED:
            if "can't be used" not in says:
                assert read(**{**variables, "ENVIRONMENT": "development"})[1] == [], says


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The service's files alone, as an image or an archive holds them."""
    for name in ("acceptance_site", "base", "orders", "clearing", "ops", "manage.py"):
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path)
    return tmp_path


class TestEnvironmentUnset:
    def settings_read(self, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        command = [sys.executable, "-c", "import acceptance_site.settings as s; print(s.ENVIRONMENT)"]
        return subprocess.run(command, cwd=folder, env={**inherited, **environment}, capture_output=True, text=True, check=False, timeout=60)

    def test_is_refused_where_there_is_no_checkout(self, unpacked: Path) -> None:
        ended = self.settings_read(unpacked)

        assert ended.returncode == EXIT_CONFIGURATION
        assert "ENVIRONMENT is not set, and this is no checkout" in ended.stderr

    @pytest.mark.parametrize("mark", [".git", ".run"])
    def test_is_development_in_a_checkout(self, unpacked: Path, mark: str) -> None:
        (unpacked / mark).mkdir()

        assert self.settings_read(unpacked).stdout == "development\n"

    def test_set_is_what_it_says(self, unpacked: Path) -> None:
        assert self.settings_read(unpacked, ENVIRONMENT="development").stdout == "development\n"


@pytest.mark.parametrize("how", [{"PYTHONOPTIMIZE": "1"}, {"ENVIRONMENT": "development", "PYTHONOPTIMIZE": "2"}])
def test_without_assertions_nothing_starts(how: dict[str, str]) -> None:
    ended = started_with({**COMPLETE, **how}, sys.executable, "manage.py", "check")

    assert ended.returncode == EXIT_CONFIGURATION
    assert "PYTHONOPTIMIZE is set" in ended.stderr
