"""A command's run: its output is kept, its deadline holds, and nothing that it started is left."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.machine import Slowness
from tests.smoke import running
from tests.smoke.__main__ import Smoke, chosen
from tests.smoke.judging import CheckError
from tests.smoke.running import Runner, environment
from tests.smoke.table import SERVICE, Check

PY = sys.executable
LEAVES_A_CHILD = "import subprocess; subprocess.Popen(['sleep', '120'], start_new_session=True)"


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    monkeypatch.setattr(running, "SETTLE_SECONDS", 0.2)
    running.adopt_orphans()
    made = Runner(tmp_path / "output")
    yield made
    made.end_all()


def check(code: str, seconds: float = 5.0, **more: object) -> Check:
    return Check("check", (), (PY, "-c", code), seconds, **more)  # type: ignore[arg-type]


def smoke(tmp_path: Path, runner: Runner) -> Smoke:
    made = Smoke(tmp_path, Slowness(1.0, 0.1), Console(quiet=True))
    made._runner = runner
    return made


def test_output_errors_and_exit_code_are_kept(runner: Runner) -> None:
    ended = runner.run("one", [PY, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"], {}, 30)

    assert (ended.exit_code, ended.output, ended.errors) == (3, "out\n", "err\n")


def test_a_command_that_hangs_is_ended(runner: Runner) -> None:
    with pytest.raises(CheckError, match="didn't end within"):
        runner.run("hangs", [PY, "-c", "import time; time.sleep(120)"], {}, 1.0)

    assert runner.left_running() == []


def test_a_command_that_serves_is_told_to_stop_once_it_is_ready(runner: Runner) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); print('ready', flush=True); time.sleep(120)"

    assert runner.run("serves", [PY, "-c", code], {}, 60, until="ready").exit_code == 0


def test_what_a_check_leaves_running_fails_it_and_is_ended(tmp_path: Path, runner: Runner) -> None:
    run = smoke(tmp_path, runner)

    run.run([check(LEAVES_A_CHILD)])

    assert [(result.result, result.why) for result in run.results] == [("failed", "left running: sleep")]
    assert runner.left_running() == []


def test_what_may_stay_is_ended_with_the_run(tmp_path: Path, runner: Runner) -> None:
    run = smoke(tmp_path, runner)

    run.run([check(LEAVES_A_CHILD, stays=True)])

    assert [result.result for result in run.results] == ["passed"]
    assert runner.left_running() == []


def test_what_a_server_that_stays_starts_later_belongs_to_it(tmp_path: Path, runner: Runner) -> None:
    run = smoke(tmp_path, runner)
    forks_later = "import subprocess; subprocess.Popen(['sh', '-c', 'while :; do sleep 0.3; sleep 0.3; done'], start_new_session=True)"

    run.run([check(forks_later, stays=True), check("import time; time.sleep(1)")])

    assert [result.result for result in run.results] == ["passed", "passed"]


def test_a_check_that_cannot_run_here_is_skipped_with_its_reason(tmp_path: Path, runner: Runner) -> None:
    run = smoke(tmp_path, runner)

    run.run([check("", needs=lambda: "no Java")])

    assert [(result.result, result.why) for result in run.results] == [("skipped", "no Java")]


def test_a_developers_servers_and_variables_are_not_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "COUNTER_URL", "MAKEFLAGS", "JSON"):
        monkeypatch.setenv(name, "x")

    found = environment(tmp_path, {"MORE": "1"})

    assert found["RUN_DIR"] == str(tmp_path)
    assert found["MORE"] == "1"
    assert not {"DATABASE_URL", "COUNTER_URL", "MAKEFLAGS", "JSON"} & set(found)


def test_a_command_that_needs_the_service_brings_it_up_and_down() -> None:
    assert [check.name for check in chosen(["audit"], [])] == [SERVICE[0].name, "audit", SERVICE[-1].name]
    assert [check.name for check in chosen(["fuzz-decode"], [])] == ["fuzz-decode"]


def test_a_name_that_there_is_not_is_told() -> None:
    with pytest.raises(LookupError, match="no check is called rollling"):
        chosen(["rollling"], [])
