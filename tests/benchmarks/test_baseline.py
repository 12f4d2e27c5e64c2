"""The commit that later figures compare with: it exists, and what differs from it is said."""

import argparse
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import baseline
from benchmarks.errors import BenchmarkError
from stack.rundir import CHECKOUT

OPTIONS = argparse.Namespace(figure="burst", rounds=2)
FIGURES = {"figure": "burst", "floor": {"orders_per_second": 200.0}, "ours": {"orders_per_second": 100.0}, "ratios": {"rate_over_floor": 0.5}}


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.strip()


def needs_history() -> None:
    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("a shallow clone (or none) has no earlier commits")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What each side prints, and what it was run with."""
    said: dict[str, Any] = {"baseline": (0, json.dumps(FIGURES), ""), "today": (0, json.dumps(FIGURES), ""), "commands": []}

    @contextmanager
    def worktree(_: str) -> Iterator[Path]:
        yield tmp_path

    def run(command: list[str], *, cwd: Path, **_: object) -> "subprocess.CompletedProcess[str]":
        said["commands"].append(command[3:])
        return subprocess.CompletedProcess(command, *said["today" if cwd == CHECKOUT else "baseline"])

    monkeypatch.setattr(baseline, "commit", lambda: "c" * 40)
    monkeypatch.setattr(baseline, "worktree", worktree)
    monkeypatch.setattr(subprocess, "run", run)
    return said


def test_the_file_names_a_commit_of_this_repository() -> None:
    needs_history()

    assert len(baseline.FILE.read_text().split()) == 1
    assert git("cat-file", "-t", baseline.commit()) == "commit"


def test_a_commit_that_is_not_here_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "BASELINE").write_text("0" * 40 + "\n")
    monkeypatch.setattr(baseline, "FILE", tmp_path / "BASELINE")

    with pytest.raises(BenchmarkError, match="this repository hasn't got"):
        baseline.commit()


def test_the_worktree_holds_that_commit_and_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs_history()
    monkeypatch.setenv("RUN_DIR", str(tmp_path))

    with baseline.worktree(baseline.commit()) as folder:
        assert (folder / "benchmarks" / "__main__.py").exists()

    assert not folder.exists()
    assert str(folder) not in git("worktree", "list")


def test_both_sides_run_in_turn_with_the_same_words(runs: dict[str, Any]) -> None:
    figures, lines = baseline.compared(OPTIONS, ["burst", "--orders=10", "--baseline", "--rounds=2", "--json"])

    assert runs["commands"] == [["burst", "--orders=10", "--rounds=2", "--rounds=1", "--json"]] * 4
    assert figures["ratios"] == {"floor.orders_per_second": 1.0, "ours.orders_per_second": 1.0, "ratios.rate_over_floor": 1.0}
    assert "cccccccccccc" in lines[0]
    assert any(line.startswith("floor.orders_per_second") for line in lines)


def test_todays_figures_stand_over_the_baselines(runs: dict[str, Any]) -> None:
    runs["baseline"] = (0, json.dumps(FIGURES | {"ours": {"orders_per_second": 80.0}}), "")

    figures, _ = baseline.compared(OPTIONS, ["burst"])

    assert figures["ratios"]["ours.orders_per_second"] == 1.25


@pytest.mark.parametrize(
    ("side", "said", "why"),
    [
        (
            "baseline",
            (2, "", "usage\nbenchmarks: error: unrecognized: --seats"),
            "command line of the baseline .* differs from today's",
        ),
        ("baseline", (1, "", "Traceback\nTypeError: clearing_claim()"), "the baseline .* failed with exit code 1: TypeError"),
        ("baseline", (0, "no JSON", ""), "printed no JSON"),
        ("baseline", (0, '{"figure": "burst"}', ""), "nothing can be compared"),
        ("today", (1, "", "burst failed: a worker ended with 3"), "this checkout failed with exit code 1: burst failed"),
    ],
)
def test_what_cannot_be_compared_is_said_plainly(runs: dict[str, Any], side: str, said: tuple[int, str, str], why: str) -> None:
    runs[side] = said

    with pytest.raises(BenchmarkError, match=why):
        baseline.compared(OPTIONS, ["burst"])
