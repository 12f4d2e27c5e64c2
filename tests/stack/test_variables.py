"""A variable or an option that can't be used ends a command with one line that names it, and with
78 or 2: never with a traceback.
"""

import sys
from pathlib import Path

import pytest

from tests.support.settings import started_with

WRONG_VARIABLES = {
    "sandbox": (["manage.py", "sandbox"], {"SANDBOX_PORT": "abc"}),
    "sandbox, no such port": (["manage.py", "sandbox"], {"SANDBOX_PORT": "65536"}),
    "stack, sandbox's port": (["manage.py", "stack", "up"], {"SANDBOX_PORT": "abc"}),
    "stack, web's port": (["manage.py", "stack", "up"], {"WEB_PORT": "0"}),
    "stack, folder": (["manage.py", "stack", "status"], {"RUN_DIR": "/etc/passwd"}),
    "stack, counts": (["manage.py", "stack", "services", "status"], {"PROCESSES": "worker:2"}),
    "stack, counts of nothing": (["manage.py", "stack", "services", "status"], {"PROCESSES": "wroker=2"}),
    "supervisor, folder": (["-m", "stack.supervisor", "beat"], {"RUN_DIR": "/etc/passwd"}),
    "benchmarks, port": (["-m", "benchmarks", "overhead", "--orders", "1"], {"SANDBOX_PORT": "abc"}),
    "benchmarks, folder": (["-m", "benchmarks", "overhead", "--orders", "1"], {"RUN_DIR": "/etc/passwd"}),
}
WRONG_OPTIONS = {
    "port": (["manage.py", "sandbox", "--port", "65536"], "'65536'"),
    "port, no number": (["manage.py", "sandbox", "--port", "\u00b2"], "'\u00b2'"),
    "spread": (["manage.py", "sandbox", "--spread-bps", "wide"], "'wide'"),
    "volatility": (["manage.py", "sandbox", "--volatility-bps", "NaN"], "'NaN'"),
    "process": (["-m", "stack.supervisor", "wroker"], "wroker"),
}


@pytest.mark.parametrize(("command", "variables"), WRONG_VARIABLES.values(), ids=WRONG_VARIABLES.keys())
def test_a_wrong_variable_ends_a_command_with_78(tmp_path: Path, command: list[str], variables: dict[str, str]) -> None:
    ended = started_with({"RUN_DIR": str(tmp_path), **variables}, sys.executable, *command)

    (name,) = variables
    assert ended.returncode == 78, ended.stderr
    assert [line for line in ended.stderr.splitlines() if name in line], ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert "traceback" not in ended.stderr + ended.stdout


@pytest.mark.parametrize(("command", "shown"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS.keys())
def test_a_wrong_option_ends_a_command_with_2(tmp_path: Path, command: list[str], shown: str) -> None:
    ended = started_with({"RUN_DIR": str(tmp_path)}, sys.executable, *command)

    assert ended.returncode == 2, ended.stderr
    assert shown in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
