"""A benchmark of this checkout in turn with the same one of an earlier commit, which the file
BASELINE names: `python -m benchmarks NAME --baseline`.

The earlier commit stands in a git worktree under .run/baseline and runs on servers of its own, with
this checkout's Python packages. Both run the same number of rounds, one round of each in turn; the
medians are printed side by side, with this checkout's floor.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError
from stack.rundir import CHECKOUT, default_folder

FILE = CHECKOUT / "benchmarks" / "BASELINE"
OURS_ALONE = {"--baseline", "--json"}
USAGE_EXIT_CODE = 2
WITHOUT = {"rolling"}  # has no figure that two commits could share: it replaces one commit's processes
Figures = dict[str, Any]


def commit() -> str:
    """The commit that later figures compare with. Raises BenchmarkError when the repository hasn't
    got it.
    """
    name = FILE.read_text().split()[0]
    revision = _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    if revision.returncode:
        raise BenchmarkError(f"{FILE.name} names {name}, which this repository hasn't got (a shallow clone? git fetch --unshallow)")
    return revision.stdout.strip()


def compared(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Figures, list[str]]:
    """The figures of both commits, and lines that show them. Raises BenchmarkError."""
    if options.figure in WITHOUT:
        raise BenchmarkError(f"{options.figure} can't be compared with an earlier commit")
    name = commit()
    words = [word for word in arguments if word not in OURS_ALONE]
    runs: dict[str, list[Figures]] = {"baseline": [], "today": []}
    with worktree(name) as earlier:
        for number in range(options.rounds):
            for side, folder in (("baseline", earlier), ("today", CHECKOUT)):
                print(f"round {number + 1} of {options.rounds}: {side}", file=sys.stderr)
                runs[side].append(_run(folder, [*words, "--rounds=1", "--json"], side, name))
    medians = {side: _medians(figures) for side, figures in runs.items()}
    return _figures(options.figure, name, medians), _lines(name, medians)


@contextmanager
def worktree(name: str) -> Iterator[Path]:
    """The commit's files in a folder of their own, which is removed at the end."""
    folder = default_folder(os.environ) / "baseline" / name[:12]
    _remove(folder)
    added = _git("worktree", "add", "--detach", "--quiet", str(folder), name)
    if added.returncode:
        raise BenchmarkError(f"git can't make a worktree of {name}: {' '.join(added.stderr.split())}")
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    _git("worktree", "remove", "--force", str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    _git("worktree", "prune")


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=False)


def _run(folder: Path, words: Sequence[str], side: str, name: str) -> Figures:
    """One round in a checkout. Raises BenchmarkError with what it said last."""
    run_dir = default_folder(os.environ) / f"baseline-{side}"
    command = [sys.executable, "-m", "benchmarks", *words]
    ended = subprocess.run(command, cwd=folder, env={**os.environ, "RUN_DIR": str(run_dir)}, capture_output=True, text=True, check=False)
    whose = f"the baseline {name[:12]}" if side == "baseline" else "this checkout"
    said = next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), "it said nothing")
    if ended.returncode == USAGE_EXIT_CODE and side == "baseline":
        raise BenchmarkError(f"the command line of {whose} differs from today's: it doesn't take `{' '.join(words)}` ({said})")
    if ended.returncode:
        raise BenchmarkError(f"{whose} failed with exit code {ended.returncode}: {said}")
    try:
        figures: Figures = json.loads(ended.stdout)
    except ValueError:
        raise BenchmarkError(f"{whose} printed no JSON: its benchmarks differ too much from today's") from None
    return figures


def _medians(runs: Sequence[Figures]) -> dict[str, float]:
    """Of every number that all rounds have, by its path (`ours.p50_ms`)."""
    flat = [dict(numbers(figures)) for figures in runs]
    return {path: statistics.median(figures[path] for figures in flat) for path in flat[0] if all(path in figures for figures in flat)}


def numbers(figures: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of the figures, by its path; the rounds' own and the machine's left out."""
    for name, value in figures.items():
        here = f"{path}.{name}".lstrip(".")
        if isinstance(value, Mapping):
            yield from numbers(value, here)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield here, float(value)


def _figures(figure: str, name: str, medians: Mapping[str, Mapping[str, float]]) -> Figures:
    return {"figure": figure, "baseline": name, "today": medians["today"], "before": medians["baseline"], "ratios": _ratios(medians)}


def _ratios(medians: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Today's over the baseline's, of every number that both have. Raises BenchmarkError when they
    share none.
    """
    both = {path: (value, medians["baseline"][path]) for path, value in medians["today"].items() if medians["baseline"].get(path)}
    if not both:
        raise BenchmarkError("the baseline's figures have other names than today's: nothing can be compared")
    return {path: today / before for path, (today, before) in both.items()}


def _lines(name: str, medians: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A table: baseline, today, and the one over the other; the floor is today's, live."""
    ratios = _ratios(medians)
    width = max(map(len, medians["today"]))
    head = f"{'':<{width}} {name[:12]:>14} {'today':>14} {'today/baseline':>15}"
    rows = [
        f"{path:<{width}} {medians['baseline'].get(path, float('nan')):>14.3f} {value:>14.3f} {ratios.get(path, float('nan')):>15.3f}"
        for path, value in medians["today"].items()
    ]
    return [head, *rows]
