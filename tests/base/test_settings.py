"""Whatever is wrong with the settings is said at the start, all of it in one list, and the process
ends with 78.
"""

import os
import re
import runpy
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest
import structlog

from acceptance_site.configuration import EXIT_CONFIGURATION, SECRETS
from stack.rundir import CHECKOUT
from tests.support.settings import COMPLETE, started_with

Read = Callable[..., tuple[dict[str, Any], list[str]]]


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Read:
    """Reads settings.py under an environment: what it sets, and the lines of stderr.

    It sets structlog up, too, which is undone: loggers that wrote before stay with the processors
    of then, and `capture_logs` of the tests that follow would only reach the new ones.
    """

    def run(**variables: str) -> tuple[dict[str, Any], list[str]]:
        capsys.readouterr()
        values: dict[str, Any] = {}
        logging = structlog.get_config()
        try:
            with mock.patch.dict(os.environ, {**COMPLETE, **variables}, clear=True), suppress(SystemExit):
                values = runpy.run_path(str(CHECKOUT / "acceptance_site" / "settings.py"))
        finally:
            structlog.configure(**logging)
        return values, capsys.readouterr().err.splitlines()

    return run


# Of every variable values that are refused.
WRONG = {
    "ENVIRONMENT": ["staging"],
    "KAFKA_PLAINTEXT": ["maybe"],
    "DATABASE_PLAINTEXT": ["maybe"],
    "BROKER_PLAINTEXT": ["maybe"],
    "ZOOKEEPER_PLAINTEXT": ["maybe"],
    "ZOOKEEPER_SSL_CAFILE": ["/no/such/file"],
    "ZOOKEEPER_SSL_CERTFILE": ["/no/such/file"],
    "ZOOKEEPER_SSL_KEYFILE": ["/no/such/file"],
    "DEBUG": ["maybe", "true"],
    "BEHIND_TLS_PROXY": ["maybe"],
    "SECURE_SSL_REDIRECT": ["maybe"],
    "CSRF_TRUSTED_ORIGINS": ["admin.example", ","],
    "RUN_DIR": ["/etc/passwd", "/etc/passwd/run", "x" * 300],
    "WEB_PORT": ["abc", "0", "65536", "80.5"],
    "SANDBOX_PORT": ["abc", "0", "65536", "80.5"],
    "DATABASE_URL": ["mysql://a@db.example/x", "db.example", "postgresql://a@db.example:port/x", "postgresql://a@db.example"],
    "DATABASE_STATEMENT_MS_MAX": ["abc", "-1"],
    "DATABASE_LOCK_MS_MAX": ["abc", "0"],
    "DATABASE_IDLE_MS_MAX": ["abc", "0"],
    "DATABASE_ROLL_BACK": ["maybe"],
    "KAFKA_BOOTSTRAP_SERVERS": ["log.example", "log.example:9092,", "kafka://log.example:9092"],
    "KAFKA_TOPIC": ["counter sync order"],
    "KAFKA_SECURITY_PROTOCOL": ["TLS", "SASL_SSL"],
    "KAFKA_SASL_MECHANISM": ["PLAIN"],
    "KAFKA_SASL_USERNAME": ["me"],
    "KAFKA_SASL_PASSWORD": ["s3cret"],
    "KAFKA_SSL_CAFILE": ["/no/such/file"],
    "KAFKA_SSL_CERTFILE": ["/no/such/file"],
    "KAFKA_SSL_KEYFILE": ["/no/such/file"],
    "KAFKA_INSTANCE_ID": ["consumer 1"],
    "KAFKA_IDLE_SLEEP_MS": ["abc", "-1"],
    "KAFKA_ASSIGNMENT": ["sticky"],
    "CONSUMER_STALL_SECONDS_MAX": ["abc", "-1", "nan", "29"],
    "INTAKE_BATCH_ROWS_MAX": ["abc", "0"],
    "INTAKE_TABLE": ["sync_order"],
    "INTAKE_COLUMNS": ["{", "[]", '{"id": "x"}', '{"shard": 1}', '{"shard": "user_id"}'],
    "INTAKE_MAC": ["maybe", "off"],
    "INTAKE_KEYS": [
        "s3cret-without-an-id-of-its-own",
        "a:s3cret",
        "a:s3cret-of-many-characters,a:s3cret-of-other-characters",
        "a b:s3cret-of-many-characters",
    ],
    "INTAKE_MAC_SINCE": ["yesterday"],
    "INTAKE_ZONE": ["Mars/Phobos", "/etc/passwd", "Asia"],
    "INTAKE_EXCHANGE_KINDS": [","],
    "INTAKE_ORDER_ID_PATTERN": ["O[0-9", "*", "O{19}{2}[", "(?P<n>"],
    "INTAKE_SINCE": ["yesterday", ""],
    "GAP_PASS_SECONDS": ["abc", "0", "-3", "nan", "inf"],
    "GAP_OVERLAP_MS": ["abc", "-1", "1.5"],
    "GAP_PAGE_ROWS": ["abc", "0", "1001"],
    "RECONCILE_SECONDS": ["abc", "0"],
    "QUARANTINE_DAYS": ["abc", "0"],
    "TIDY_SECONDS": ["abc", "0"],
    "RECONCILE_HOURS": ["abc", "0", "-1"],
    "RECONCILE_SETTLE_MS": ["abc", "-1"],
    **{
        f"{name}_URL": ["x.example", "ftp://x.example", "https://u:s3cret@x.example", "https://x.example?a=1"]
        for name in ("COUNTER", "FUND", "TRADING")
    },
    **{f"{name}_KEY": [""] for name in ("COUNTER", "FUND", "TRADING")},
    **{f"{name}_CALLS_PER_SECOND_MAX": ["abc", "-1", "inf"] for name in ("COUNTER", "FUND", "TRADING")},
    "SECRET_KEY": [""],
    "ALLOWED_HOSTS": [""],
    "GATEWAY_KIND": ["https", "a b"],
    "GATEWAY_DEADLINE_MS": ["abc", "0", "-5"],
    "GATEWAY_CALLS_MAX": ["abc", "0"],
    "GATEWAY_SLOT_WAIT_MS": ["abc", "-1"],
    "BREAKER_FAILURES_MIN": ["abc", "0"],
    "BREAKER_WINDOW_SECONDS": ["abc", "0", "nan"],
    "CLEARING_LANES": ["abc", "0", "-1", "²", "1e3"],
    "CLEARING_RUN_STEPS_INLINE": ["maybe"],
    "CLEARING_CLAIM_SECONDS": ["abc", "0"],
    "CLEARING_NEXT_IN_PLACE_MAX": ["abc", "-1"],
    "CLEARING_ATTEMPTS_MAX": ["abc", "0"],
    "CLEARING_DUST_SHARE_MAX": ["abc", "-0.1", "0.051", "NaN"],
    "CLEARING_MAX_SLIPPAGE_BPS": ["abc", "-1", "sNaN"],
    "CLEARING_SLIPPAGE_TWO_OPERATORS_USDT": ["abc", "-1", "1e19"],
    "CLEARING_HARD_SLIPPAGE_BPS": ["abc", "0", "10001"],
    "CLEARING_FILL_FEE_MAX_BPS": ["abc", "-1", "1001"],
    "CLEARING_ORDER_USDT_MAX": ["abc", "-1", "1e19"],
    "CLEARING_USER_USDT_PER_DAY_MAX": ["abc", "-1", "1e25"],
    "CLEARING_USDT_PER_MINUTE_MAX": ["abc", "-1", "1e25"],
    "RETRY_BASE_MS": ["abc", "0"],
    "RETRY_CAP_MS": ["abc", "0"],
    "SIGNATURE_VALIDITY_SECONDS": ["abc", "0"],
    "CLOCK_SKEW_SECONDS_MAX": ["abc", "-1"],
    "KEY_RETENTION_SECONDS": ["abc", "0"],
    "INTERVENTION_HOURS": ["abc", "0"],
    "APPROVER_SETTLED_HOURS": ["abc", "-1", "0"],
    "RETRIES_ALONE_MAX": ["abc", "-1"],
    "SECOND_FACTOR": ["maybe", "off"],
    "SESSION_HOURS": ["abc", "0", "25"],
    "APPROVAL_FRESH_SECONDS": ["abc", "0", "901"],
    "SIGN_IN_FAILURES_MAX": ["abc", "0"],
    "SIGN_IN_LOCK_MINUTES": ["abc", "0"],
    "PROXY_COUNT": ["abc", "-1"],
    "PARKED_REMINDER_SECONDS": ["abc", "0"],
    "SWEEP_SECONDS": ["abc", "0"],
    "SWEEP_ROWS_MAX": ["abc", "0"],
    "SWEEP_UNCLAIMED_AFTER_SECONDS": ["abc", "0"],
    "BROKER_URL": ["amqp://broker.example", "broker.example:6379", "redis://:s3cret@broker.example/zero"],
    "LEADERSHIP_URL": ["http://zk.example:2181/a", "zk://zk.example:2181", "zk://me:s3cret@zk.example:2181/a"],
    "ZOOKEEPER_SESSION_SECONDS": ["abc", "0", "61"],
    "ZOOKEEPER_USER": ["me"],
    "ZOOKEEPER_PASSWORD": ["s3cret"],
    "LEADER_LEASE_SECONDS": ["abc", "0", "0.5"],
    "FENCE_MS_MAX": ["abc", "0", "499"],
    "LOG_LEVEL": ["LOUD"],
    "LOG_FORMAT": ["xml"],
    "ALARM_WEBHOOK_URL": ["hooks.example/x", "https://u:s3cret@hooks.example/x", "https://hooks.example/x"],  # the last one without its key
    "ALARM_WEBHOOK_KEY": ["short"],
    "ALARM_REPEAT_SECONDS": ["abc", "-1"],
    "SEAL_KEY": ["s3cret", "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----"],
    "METRICS_DIR": ["/etc/passwd", "/etc/passwd/metrics"],
    "METRICS_PORT": ["abc", "-1", "65536"],
    "MONITORING_TOKEN": ["short", "with spaces in between them"],
}
# What else must be set for the wrong value to be the only problem.
SSL = {"KAFKA_SECURITY_PROTOCOL": "SSL"}
ZOOKEEPER = {"LEADERSHIP_URL": "zk://zk.example:2181/a", **{f"ZOOKEEPER_SSL_{name}": "manage.py" for name in ("CAFILE", "CERTFILE", "KEYFILE")}}
BESIDE: dict[str, dict[str, str]] = {
    "KAFKA_SSL_CAFILE": SSL,
    "KAFKA_SSL_CERTFILE": SSL,
    "KAFKA_SSL_KEYFILE": {**SSL, "KAFKA_SSL_CERTFILE": "manage.py"},
    **{f"ZOOKEEPER_SSL_{name}": ZOOKEEPER for name in ("CAFILE", "CERTFILE", "KEYFILE")},
}
# Any text is right.
FREE = {"SERVICE_VERSION", "PROCESS_ROLE", "KAFKA_GROUP", "KAFKA_SSL_KEY_PASSWORD", "ZOOKEEPER_SSL_KEY_PASSWORD"}
FILES = {f"{name}_FILE" for name in SECRETS}
FORMER = {
    "KAFKA_IDLE_PAUSE_MS": ("KAFKA_IDLE_SLEEP_MS", "5", "6", 5),
    "CLEARING_CONTINUE_IN_PLACE": ("CLEARING_RUN_STEPS_INLINE", "false", "true", False),
    "SWEEP_GONE_SECONDS": ("SWEEP_UNCLAIMED_AFTER_SECONDS", "3.5", "4", 3.5),
}


class TestEveryVariable:
    def test_is_in_the_table(self, read: Read) -> None:
        values, said = read()

        assert said == []
        assert set(values["env"].dump()) == set(WRONG) | FREE | FILES | set(FORMER)

    @pytest.mark.parametrize("name", WRONG)
    def test_a_wrong_value_is_refused_with_what_to_set(self, read: Read, name: str) -> None:
        for value in WRONG[name]:
            values, said = read(**{**BESIDE.get(name, {}), name: value})

            assert values == {}, value
            assert "1 problem," in said[0], said
            assert name in said[1]
            assert re.search(r"\b(un)?set\b", said[1]) or "no such file" in said[1]
            assert len(said) == 2
            assert "s3cret" not in "".join(said)

    def test_an_empty_value_counts_as_not_set(self, read: Read) -> None:
        empty = dict.fromkeys({*WRONG, *FREE, *FORMER} - set(COMPLETE), "")

        values, said = read(**empty)

        assert said == []
        assert (values["CLEARING_LANES"], values["KAFKA_TOPIC"]) == (16, "counter.sync_order")

    def test_all_problems_are_in_one_list(self, read: Read) -> None:
        wrong = {name: values[0] for name, values in WRONG.items() if not name.startswith(("KAFKA_S", "ZOOKEEPER_", "LEADERSHIP"))}

        _, said = read(**wrong)

        assert len(said) == 1 + len(wrong)
        assert f"{len(wrong)} problems," in said[0]

    def test_several_problems_of_one_server_as_well(self, read: Read) -> None:
        _, said = read(KAFKA_SECURITY_PROTOCOL="SASL_SSL", KAFKA_SSL_CAFILE="/no/such/file", LEADERSHIP_URL="zk://a:1/b", ZOOKEEPER_USER="a:b")

        assert [line.split()[0] for line in said[1:]] == ["KAFKA_SECURITY_PROTOCOL", "KAFKA_SSL_CAFILE", "ZOOKEEPER_PASSWORD", "ZOOKEEPER_USER"]


class TestContradictions:
    """Values that are right each for itself."""

    @pytest.mark.parametrize(
        ("variables", "says"),
        [
            ({"CLEARING_CLAIM_SECONDS": "9.9"}, "CLEARING_CLAIM_SECONDS is 9.9: set it to 10 or more"),
            ({"GATEWAY_DEADLINE_MS": "8000", "CLEARING_CLAIM_SECONDS": "12"}, "CLEARING_CLAIM_SECONDS is 12: set it to 16 or more"),
            ({"BREAKER_WINDOW_SECONDS": "4"}, "BREAKER_WINDOW_SECONDS is 4: set it to 5 or more"),
            ({"GATEWAY_SLOT_WAIT_MS": "5001"}, "GATEWAY_SLOT_WAIT_MS is 5001: set it to 5000 or less"),
            ({"SIGNATURE_VALIDITY_SECONDS": "4", "CLOCK_SKEW_SECONDS_MAX": "1"}, "SIGNATURE_VALIDITY_SECONDS is 4: set it to 5 or more"),
            ({"CLOCK_SKEW_SECONDS_MAX": "31"}, "CLOCK_SKEW_SECONDS_MAX is 31: set it to 30 or less"),
            # a claim of 12 s, a signature valid for 30, clocks 10 s apart and a call of 5 s
            ({"KEY_RETENTION_SECONDS": "56"}, "KEY_RETENTION_SECONDS is 56: set it to 57 or more"),
            ({"RETRY_CAP_MS": "199"}, "RETRY_CAP_MS is 199: set it to 200 or more"),
            ({"CONSUMER_STALL_SECONDS_MAX": "29"}, "CONSUMER_STALL_SECONDS_MAX is 29: set it to 30 or more"),
            ({"DATABASE_STATEMENT_MS_MAX": "3400", "DATABASE_LOCK_MS_MAX": "3000"}, "FENCE_MS_MAX is 3000: set it to 2900 or less"),
            ({"DATABASE_LOCK_MS_MAX": "10001"}, "DATABASE_LOCK_MS_MAX is 10001: set it to 10000 or less"),
            ({"RECONCILE_SECONDS": "3600", "RECONCILE_HOURS": "1", "RECONCILE_SETTLE_MS": "0"}, ""),
            ({"RECONCILE_SECONDS": "7200", "RECONCILE_HOURS": "1", "RECONCILE_SETTLE_MS": "0"}, "RECONCILE_HOURS is 1: set it to 2 or more"),
            ({"SWEEP_SECONDS": "13"}, "SWEEP_SECONDS is 13: set it to 12 or less"),
            ({"PARKED_REMINDER_SECONDS": "1", "SWEEP_SECONDS": "2"}, "PARKED_REMINDER_SECONDS is 1: set it to 2 or more"),
            (
                {"ALARM_WEBHOOK_URL": "https://hooks.example/x?a=s3cret", "ALARM_WEBHOOK_KEY": "k" * 32, "ALARM_REPEAT_SECONDS": "901"},
                "ALARM_REPEAT_SECONDS is 901: set it to 900 or less",
            ),
            ({"ALARM_REPEAT_SECONDS": "901"}, ""),
            ({"DATABASE_STATEMENT_MS_MAX": "0"}, ""),  # for migrations
            ({"CLEARING_MAX_SLIPPAGE_BPS": "2001"}, "CLEARING_MAX_SLIPPAGE_BPS is 2001: set it to 2000 or less"),
            ({"CLEARING_USER_USDT_PER_DAY_MAX": "999999"}, "CLEARING_USER_USDT_PER_DAY_MAX is 999999: set it to 1000000 or more"),
            ({"CLEARING_USER_USDT_PER_DAY_MAX": "0", "CLEARING_ORDER_USDT_MAX": "0"}, ""),  # off
        ],
    )
    def test_are_found(self, read: Read, variables: dict[str, str], says: str) -> None:
        _, said = read(**variables)

        assert [line.split(" (")[0] for line in said[1:]] == [says] * bool(says)

    def test_are_not_looked_for_where_one_is_wrong_by_itself(self, read: Read) -> None:
        _, said = read(GATEWAY_DEADLINE_MS="abc", CLEARING_CLAIM_SECONDS="1")

        assert [line.split()[0] for line in said[1:]] == ["GATEWAY_DEADLINE_MS"]


class TestAFormerName:
    @pytest.mark.parametrize("former", FORMER)
    def test_is_still_read_and_the_new_one_is_named(self, read: Read, former: str) -> None:
        name, text, _, value = FORMER[former]

        values, said = read(**{former: text})

        assert values[name] == value
        assert len(said) == 1
        assert f"{former} is now called {name}" in said[0]

    @pytest.mark.parametrize("former", FORMER)
    def test_beside_the_new_one_must_say_the_same(self, read: Read, former: str) -> None:
        name, text, other, value = FORMER[former]

        same, _ = read(**{former: text, name: text})
        different, said = read(**{former: text, name: other})

        assert (same[name], different) == (value, {})
        assert f"{name} and {former}, its former name, are set to different values" in said[1]

    def test_a_wrong_value_is_named_by_both(self, read: Read) -> None:
        _, said = read(SWEEP_GONE_SECONDS="abc")

        assert said[-1] == "SWEEP_GONE_SECONDS is 'abc': set SWEEP_UNCLAIMED_AFTER_SECONDS to a number from 0.1 to 3600"


class TestProduction:
    @pytest.mark.parametrize("missing", [name for name in COMPLETE if name != "ENVIRONMENT"])
    def test_refuses_to_start_without_any_of_it_and_names_it(self, read: Read, missing: str) -> None:
        _, said = read(**{missing: ""})

        assert said[1].startswith(f"{missing} is not set: production needs it; set it to ")

    def test_names_all_that_is_missing(self, read: Read) -> None:
        _, said = read(**{name: "" for name in COMPLETE if name != "ENVIRONMENT"})

        assert len(said) == len(COMPLETE) - 1  # whether Kafka is encrypted is asked of servers that are named

    def test_refuses_debug(self, read: Read) -> None:
        assert "DEBUG is on" in read(DEBUG="true")[1][1]

    def test_a_misspelt_environment_does_not_start_as_development(self, read: Read) -> None:
        _, said = read(ENVIRONMENT="prod", SECRET_KEY="")

        assert [line.split(":")[0] for line in said[1:]] == ["ENVIRONMENT is 'prod'", "SECRET_KEY is not set"]


STARTS = {
    "manage.py": [sys.executable, "manage.py", "check"],
    "consumer": [sys.executable, "manage.py", "consume_binlog"],
    "worker": [sys.executable, "-m", "celery", "-A", "acceptance_site", "worker"],
    "beat": [sys.executable, "-m", "celery", "-A", "acceptance_site", "beat"],
    "web": [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"],
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_every_way_to_start_prints_the_list_and_exits_with_78(start: list[str]) -> None:
    wrong = {"CLEARING_LANES": "0", "INTAKE_SINCE": "yesterday", "CLEARING_CLAIM_SECONDS": "1"}

    ended = started_with({**COMPLETE, **wrong}, *start)

    assert ended.returncode == EXIT_CONFIGURATION, ended.stderr
    lines = [line for line in ended.stderr.splitlines() if re.match(r"[A-Z_]+ is ", line)]
    assert [line.split()[0] for line in lines] == ["INTAKE_SINCE", "CLEARING_LANES", "CLEARING_CLAIM_SECONDS"]
    assert "Traceback" not in ended.stderr + ended.stdout
