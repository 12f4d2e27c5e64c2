"""A benchmark that fails, in a process, a task or a thread, ends with one line that says why, and
never with figures of what wasn't measured.
"""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import pytest

from benchmarks import __main__ as command
from benchmarks import floor, rolling
from benchmarks.errors import BenchmarkError, last_line, reason
from benchmarks.orders import burst_seconds, overheads_ms
from benchmarks.ours import Workers
from benchmarks.shares import percentile
from clearing.flow.flows import OrderFacts
from stack.rundir import CHECKOUT

ORDERS = [(n, OrderFacts(f"B{n}", str(n), f"C{n}", "OPEN", "BTC", Decimal("0.05"), Decimal("2500.25"))) for n in range(3)]
SPAN = rolling.Span(0.0, 1000.0)


def ended(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "RUN_DIR": str(folder)}
    return subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_: argparse.Namespace) -> Any:
        raise error

    monkeypatch.setitem(command.ALONE, "decode", fail)
    monkeypatch.setattr(command, "slowness", lambda: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "decode", "--json"])


@pytest.mark.parametrize("error", [BenchmarkError("no orders"), ValueError("no orders"), ExceptionGroup("tasks", [BenchmarkError("no orders")])])
def test_a_failure_is_one_line_and_no_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception
) -> None:
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    failing(monkeypatch, error)

    assert command.main() == 1

    written = capsys.readouterr()
    assert written.out == ""
    assert len(written.err.splitlines()) == 1
    assert "decode failed: " in written.err
    assert "no orders" in written.err


def test_an_unexpected_error_leaves_its_traceback_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    failing(monkeypatch, KeyError("lost"))

    command.main()

    assert "KeyError: 'lost'" in (tmp_path / "bench" / "failure.log").read_text()


def test_figures_that_are_not_finite_are_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    monkeypatch.setattr(command, "slowness", lambda: None)
    monkeypatch.setitem(command.ALONE, "decode", lambda _: ({"ratios": {"x": float("nan")}}, []))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "decode", "--json"])

    assert command.main() == 1


def test_a_database_that_is_named_and_away_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")

    found = ended("burst", "--orders=1", folder=tmp_path)

    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr.splitlines()[-1].startswith("burst failed: ")
    assert "Traceback" not in found.stderr


def test_there_is_no_percentile_of_nothing() -> None:
    with pytest.raises(BenchmarkError, match="nothing was measured"):
        percentile([], 0.99)


@pytest.mark.django_db
@pytest.mark.parametrize("measure", [lambda: overheads_ms(5.0, 3), lambda: burst_seconds(3), lambda: burst_seconds(0)])
def test_orders_that_were_not_cleared_are_no_figure(measure: Any) -> None:
    with pytest.raises(BenchmarkError, match=r"0 of \d orders were cleared"):
        measure()


@pytest.mark.django_db
def test_a_worker_that_dies_is_told_with_the_last_line_of_its_log(tmp_path: Path) -> None:
    workers = Workers([sys.executable, "-c", "import sys; print('no broker'); sys.exit(3)"], 1, tmp_path / "worker.log")
    workers._processes[0].wait(30)

    with pytest.raises(BenchmarkError, match="a worker ended with 3 while it was measured: no broker"):
        workers._wait_cleared(1, seconds_max=60)

    workers.stop()


class BrokenPool:
    """A database that opens one clearing and knows no function."""

    async def fetch(self, sql: str, *_: object) -> list[dict[str, int]]:
        if "clearing_accept" not in sql:
            raise ValueError("no such function")
        return [{"id": 1, "epoch": 1}]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("run", [lambda: floor.burst(ORDERS, 1), lambda: floor.paced(ORDERS, 100.0)])
def test_a_task_of_the_floor_that_fails_fails_the_floor(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> None:
    monkeypatch.setattr(floor, "_pool", BrokenPool)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(run())

    assert reason(caught.value) == "ValueError: no such function"


def test_a_span_without_orders_has_no_percentiles() -> None:
    nothing = rolling.Cost.of("beat", SPAN, [])
    something = rolling.Cost.of("before", SPAN, [(10.0, 5.0)])

    assert (nothing.orders, nothing.p50_ms) == (0, None)
    with pytest.raises(BenchmarkError, match="no order was cleared during the replacements"):
        rolling.goals(something, nothing)
    with pytest.raises(BenchmarkError, match="no order was cleared before the replacements"):
        rolling.goals(nothing, something)


def place_until_it_ends(service: rolling.Service) -> None:
    with service.placing(1.0) as process:
        process.wait(120)


def test_placing_that_ends_early_fails_the_run(tmp_path: Path) -> None:
    service = rolling.Service(tmp_path)
    service.stack.run_dir.make()
    service.environment |= {"COUNTER_URL": "http://127.0.0.1:1/counter"}

    with pytest.raises(BenchmarkError, match=r"place_orders ended with 2 while it was needed: .*no counter answers"):
        place_until_it_ends(service)


def test_the_last_line_of_a_log_that_says_something(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("first\nlast\n\n")

    assert last_line(tmp_path / "log") == "last"
    assert last_line(tmp_path / "none") == "its log is empty"
