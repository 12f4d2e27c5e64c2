"""Why a benchmark has no figure, in one line."""

from pathlib import Path

LINE_MAX = 400


class BenchmarkError(Exception):
    """Something that was measured failed: a process, a task or a thread. The text is one line."""


def reason(error: BaseException) -> str:
    """One line: of a group of errors the first; the type where it isn't a BenchmarkError."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = " ".join(str(error).split())[:LINE_MAX]
    return text if isinstance(error, BenchmarkError) else f"{type(error).__name__}: {text}"


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next((line.strip()[:LINE_MAX] for line in reversed(lines) if line.strip()), "its log is empty")
