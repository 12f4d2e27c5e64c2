"""Logs: one JSON object a line, whoever wrote it; alarms besides are counted."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from base import logs
from base.alarms import alarm
from base.metrics import REGISTRY

PRELUDE = "import django; django.setup(); import logging, structlog; from base import logs; log = structlog.get_logger('own');"
END = "the end\n"
OBEYS = f"""
import json, sys
for line in sys.stdin:
    exec(json.loads(line))
    print({END!r}, end="", flush=True)
"""


def run(script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    names = {**os.environ, "DJANGO_SETTINGS_MODULE": "acceptance_site.settings", "METRICS_DIR": "", **environment}
    return subprocess.run([sys.executable, "-c", PRELUDE + script], env=names, capture_output=True, text=True, check=False, timeout=60)


Lines = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def lines() -> Iterator[Lines]:
    """What a process logs, each line decoded: one process for all, which takes seconds to start."""
    names = {**os.environ, "DJANGO_SETTINGS_MODULE": "acceptance_site.settings", "METRICS_DIR": ""}
    with subprocess.Popen([sys.executable, "-c", PRELUDE + OBEYS], env=names, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told, said = process.stdin, process.stdout

        def logged(script: str) -> list[dict[str, Any]]:
            print(json.dumps(script), file=told, flush=True)
            return [json.loads(line) for line in iter(said.readline, END)]

        yield logged
        told.close()


class TestLines:
    def test_ours_and_the_standard_library_s_look_alike(self, lines: Lines) -> None:
        own, foreign = lines("log.warning('own words', amount=1); logging.getLogger('lib').warning('theirs: %s', 7)")

        assert own["event"] == "own words"
        assert own["amount"] == 1
        assert foreign["event"] == "theirs: 7"
        assert {"at", "level", "logger"} <= own.keys() & foreign.keys()

    def test_an_order_is_on_every_line_inside(self, lines: Lines) -> None:
        inside, outside = lines(
            "\nwith logs.bind_order('o-1', step=3, epoch=2):\n    logging.getLogger('lib').error('inside')\nlogging.getLogger('lib').error('outside')"
        )

        assert (inside["order_id"], inside["step"], inside["epoch"]) == ("o-1", 3, 2)
        assert "order_id" not in outside

    def test_an_exception_is_one_line(self, lines: Lines) -> None:
        (line,) = lines("\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('broken')")

        assert "ZeroDivisionError" in line["exception"]

    def test_values_that_json_does_not_know_are_written_as_text(self, lines: Lines) -> None:
        (line,) = lines(r"from decimal import Decimal; log.warning('odd', amount=Decimal('1.50'), raw=b'\xff', name='\ud800')")

        assert line["amount"] == "1.50"

    def test_chatter_of_libraries_is_left_out(self, lines: Lines) -> None:
        assert lines("logging.getLogger('celery.worker.strategy').info('received'); logging.getLogger('kafka.conn').info('connected')") == []

    def test_a_command_may_keep_stdout_for_its_result(self) -> None:
        ended = run("logs.leave_stdout(); log.error('elsewhere')")

        assert ended.stdout == ""
        assert json.loads(ended.stderr)["event"] == "elsewhere"


KEY = "TOPSECRETHMAC-0123456789abcdefgh"
SIGN = """
from base.signing import sign
from django.conf import settings
of_a_frame = "value-" + "of-a-local"
key, password = settings.COUNTERPARTY_KEYS["fund"], settings.DATABASES["default"]["PASSWORD"]
try:
    sign(key, "POST", "/v1/x", 1, "no bytes")
except TypeError:
    log.exception("refused", fund_key=key, context={"sasl_plain_password": "pw-of-kafka", "key": "O1:3"}, url="redis://:pw-of-redis@broker:6379/0")
    logging.getLogger("lib").exception("with %s and %s, to %s and %s", key, password, settings.ALARM_WEBHOOK_URL, settings.BROKER_URL)
"""


class TestSecrets:
    @pytest.mark.parametrize("log_format", logs.FORMATS)
    def test_are_in_no_line_whoever_writes_it_and_in_no_traceback(self, log_format: str) -> None:
        url = "postgresql://me:pw-of-postgres@127.0.0.1:1/x"

        hook = {"ALARM_WEBHOOK_URL": "https://hooks.example/pw-of-hook", "ALARM_WEBHOOK_KEY": KEY[::-1]}

        ended = run(SIGN, LOG_FORMAT=log_format, FUND_KEY=KEY, DATABASE_URL=url, BROKER_URL="redis://127.0.0.1:1/7", **hook)

        assert "base/signing.py" in ended.stdout, ended.stderr
        for secret in (KEY, "pw-of-kafka", "pw-of-redis", "pw-of-postgres", "pw-of-hook", "value-of-a-local"):
            assert secret not in ended.stdout + ended.stderr
        assert "O1:3" in ended.stdout  # an idempotency key is none
        assert "redis://127.0.0.1:1/7" in ended.stdout  # nor an address without a password

    def test_an_address_is_shown_without_its_password(self, lines: Lines) -> None:
        (line,) = lines("log.warning('lost', url='postgresql://me:pw-of-postgres@db:5432/x', other='http://a:8000/b@c')")

        assert line["url"] == "postgresql://[redacted]@db:5432/x"
        assert line["other"] == "http://a:8000/b@c"


class TestSettings:
    def test_a_format_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ValueError, match="LOG_FORMAT"):
            logs.django_logging("xml", "INFO")

    def test_so_is_a_level(self) -> None:
        with pytest.raises(ValueError, match="LOG_LEVEL"):
            logs.django_logging("json", "LOUD")

    def test_lines_for_people(self) -> None:
        assert "for people" in run("log.warning('for people')", LOG_FORMAT="console").stdout


class TestAlarms:
    def test_an_alarm_is_a_line_and_a_count(self, caplog: pytest.LogCaptureFixture) -> None:
        before = REGISTRY.get_sample_value("acceptance_alarms_total", {"code": "trial"}) or 0

        with caplog.at_level(logging.ERROR):
            alarm("trial", "somebody should look", order_id="o-1")

        assert REGISTRY.get_sample_value("acceptance_alarms_total", {"code": "trial"}) == before + 1
        assert "somebody should look" in caplog.text
