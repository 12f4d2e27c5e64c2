"""A release in a worktree of its own, driven by what it documents: `manage.py`, the Procfile's
processes and the environment.
"""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stack.rundir import CHECKOUT

LAST_RELEASE = "647d885"  # the last one that was landed before this
COMMAND_SECONDS_MAX = 300
REQUIREMENTS = "requirements-dev.txt"  # the Procfile's processes need the launcher's servers too


class UpgradeError(Exception):
    """The upgrade failed; the text says where. `seen`: states and the ends of the logs then."""

    def __init__(self, text: str, seen: str = "") -> None:
        super().__init__(text)
        self.seen = seen


@dataclass
class Release:
    """One release on the run's servers. `environment`: what its commands and processes get."""

    name: str
    checkout: Path
    python: Path
    run_dir: Path
    environment: dict[str, str] = field(default_factory=dict)

    def manage(self, *arguments: str, expect: int | None = 0, seconds: float = COMMAND_SECONDS_MAX, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of manage.py to its end. Raises UpgradeError when it ends with another
        exit code than `expect` (None: any will do).
        """
        command = [str(self.python), "manage.py", *arguments]
        ended = subprocess.run(command, cwd=self.checkout, env=self._variables(more), capture_output=True, text=True, timeout=seconds, check=False)
        if expect is not None and ended.returncode != expect:
            output = f"{ended.stdout}\n{ended.stderr}".strip()
            raise UpgradeError(f"{self.name}: manage.py {' '.join(arguments)} ended with {ended.returncode}:\n{output}")
        return ended

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Starts a command of manage.py in the background."""
        command = [str(self.python), "manage.py", *arguments]
        return subprocess.Popen(command, cwd=self.checkout, env=self._variables({}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def migrate(self, *, roll_back: bool = False, seconds: float = COMMAND_SECONDS_MAX) -> None:
        """Migrates, as docs/upgrading.md says; or puts its own functions back."""
        more = {"DATABASE_ROLL_BACK": "1"} if roll_back else {}
        self.manage("migrate", "--verbosity=0", expect=0, seconds=seconds, DATABASE_STATEMENT_MS_MAX="0", **more)

    def services(self, what: str, *names: str) -> None:
        """`up`, `down` or `restart` of the Procfile's processes."""
        self.manage("stack", "services", what, *names)

    def web_url(self) -> str:
        """Where its web process listens."""
        lines = (self.run_dir / "stack.env").read_text().splitlines()
        return f"http://127.0.0.1:{dict(line.split('=', 1) for line in lines)['WEB_PORT'].strip(chr(39))}"

    def pids(self) -> list[int]:
        """Its processes by their pid files."""
        return [int(path.read_text()) for path in (self.run_dir / "pids").glob("*.pid")]

    def log_tails(self, lines: int = 5) -> str:
        """The last lines of each of its logs."""
        paths = sorted((self.run_dir / "logs").glob("*.log"))
        return "\n".join(f"--- {self.name} {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) for path in paths)

    def _variables(self, more: Mapping[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
        return {**inherited, "RUN_DIR": str(self.run_dir), **self.environment, **more}


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A git worktree of the commit with a virtual environment: this one where the pinned packages
    are the same, otherwise one of its own. Raises UpgradeError.
    """
    checkout = folder / "release"
    _git("worktree", "add", "--detach", "--force", str(checkout), commit)
    try:
        _make_environment(checkout)
        yield checkout
    finally:
        _git("worktree", "remove", "--force", str(checkout))


def _make_environment(checkout: Path) -> None:
    target = checkout / ".venv"
    if (checkout / REQUIREMENTS).read_bytes() == (CHECKOUT / REQUIREMENTS).read_bytes():
        target.symlink_to(sys.prefix)
        return
    venv.create(target, with_pip=True)
    install = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", REQUIREMENTS]
    if subprocess.run(install, cwd=checkout, check=False).returncode:
        raise UpgradeError(f"the packages of {checkout} couldn't be installed")


def resolve(commit: str) -> str:
    """The full hash. Raises UpgradeError when there is no such commit."""
    return _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").strip()


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        raise UpgradeError("git isn't installed: the release before is taken from this repository")
    ended = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise UpgradeError(f"git {' '.join(arguments)} ended with {ended.returncode}: {ended.stderr.strip() or 'no such commit in this repository'}")
    return ended.stdout
