"""How each documented command is run small: one table, and the exceptions with a reason each."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from stack import zookeeper
from stack.rundir import CHECKOUT
from tests.smoke.judging import Judge, has_figures, has_json, helps, says_who_knows, succeeded
from tests.upgrade.release import LAST_RELEASE, UpgradeError, resolve

PY: Final = sys.executable
EXCEPTIONS_MAX: Final = 8
EXCEPTIONS: Final[Mapping[str, str]] = {
    "make test": "the test suite: it has a step of its own in .ci/run",
    "make lint": "the checks of the source: they have a step of their own in .ci/run",
    "make smoke": "this run",
    "make pins": "rewrites the pinned requirements, from whatever the package index has today",
    "make digests": "rewrites Dockerfile and docker-compose.yml, from whatever the registries have today",
    "manage.py changepassword": "Django's, which asks on a terminal",
    "make clean": "removes the virtual environment that this run uses",
    "make help": "tests/smoke/test_documents.py reads what it prints",
}


def _nothing() -> str | None:
    return None


def no_zookeeper() -> str | None:
    """Why no ZooKeeper can run here, where nothing can install it either."""
    can_install = os.geteuid() == 0 and shutil.which("apt-get") is not None
    return None if can_install else zookeeper.missing()


def no_kafka() -> str | None:
    """Why no real Kafka can run here."""
    absent = [name for name in ("java", "mvn") if shutil.which(name) is None]
    return f"a real Kafka needs {' and '.join(absent)}: apt install default-jre-headless maven" if absent else None


def no_older_release() -> str | None:
    """Why no older release can be upgraded here: a checkout without its history."""
    try:
        resolve(LAST_RELEASE)
    except UpgradeError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Check:
    """One run of one command. `covers`: the documented commands that it runs; `seconds`: what it
    takes on two quiet cores, about; `needs`: the reason to skip it here, if there is one; `stays`:
    what it starts goes on running; `until`: the text in its output after which it is told to stop.
    """

    name: str
    covers: tuple[str, ...]
    command: tuple[str, ...]
    seconds: float
    judge: Judge = succeeded
    needs: Callable[[], str | None] = _nothing
    variables: Mapping[str, str] = field(default_factory=dict)
    on_service: bool = False  # runs on the service that "up" has started
    stays: bool = False
    until: str = ""


def own_commands() -> list[str]:
    """The commands of manage.py that are ours."""
    return sorted(path.stem for path in CHECKOUT.glob("*/management/commands/*.py") if path.stem != "__init__")


def make(target: str, seconds: float, *variables: str, covers: tuple[str, ...] = (), judge: Judge = succeeded, **more: object) -> Check:
    """A target of the Makefile, with variables that make it small."""
    name = f"make {target}" if target in own_commands() else target
    return Check(name, (f"make {target}", *covers), ("make", target, *variables), seconds, judge, **more)  # type: ignore[arg-type]


def manage(words: str, *options: str, seconds: float = 3.0, judge: Judge = succeeded, **more: object) -> Check:
    """A command of manage.py, on the service that is up."""
    command = (PY, "manage.py", *words.split(), *options)
    return Check(words, (f"manage.py {words}",), command, seconds, judge, on_service=True, **more)  # type: ignore[arg-type]


def figure(name: str, seconds: float, *options: str) -> Check:
    """A benchmark; its JSON is read."""
    command = (PY, "-m", "benchmarks", name, *options, "--json")
    return Check(f"benchmarks {name}", (f"python -m benchmarks {name}",), command, seconds, has_figures)


ALONE: Final = (
    make("setup", 2),
    Check("stack.zookeeper", ("python -m stack.zookeeper",), (PY, "-m", "stack.zookeeper"), 1, needs=zookeeper.missing),
    Check("stack.compose_check", ("python -m stack.compose_check",), (PY, "-m", "stack.compose_check"), 2),
    Check("check", ("manage.py check",), (PY, "manage.py", "check"), 2),
    make("sbom", 40, "OUT=.run/sbom.cdx.json"),
    make("advisories", 40, "JSON=1", judge=says_who_knows),
    make("fuzz-decode", 5, "COUNT=20000"),
    make("simulate", 20, "ORDERS=500"),
    make("crashpoints", 15, "SEED=1", "SCENARIO=steps/close/done@1"),
    make(
        "bench",
        30,
        "BENCH=overhead burst",
        "ORDERS=100",
        "ROUNDS=1",
        "JSON=1",
        covers=("python -m benchmarks overhead", "python -m benchmarks burst"),
        judge=has_figures,
    ),
    make(
        "bench-intake",
        40,
        "ORDERS=500",
        "ROUNDS=1",
        "JSON=1",
        covers=("python -m benchmarks decode", "python -m benchmarks ingest", "python -m benchmarks gaps"),
        judge=has_figures,
    ),
    figure("pages", 20, "--orders=1000", "--rounds=1"),
    figure("handover", 25, "--hand-overs=1"),
    make("rolling", 80, "SECONDS=3", "RATE=6", "REPLACE=worker,consumer", "JSON=1", covers=("python -m benchmarks rolling",), judge=has_json),
    make("state-machine", 30, "EXAMPLES=10"),
    make("upgrade-test", 180, "ORDERS=10", "SHORT=1", "JSON=1", judge=has_json, needs=no_older_release),
    Check(
        "tests.upgrade.locks",
        ("python -m tests.upgrade.locks",),
        (PY, "-m", "tests.upgrade.locks", "--orders=2000", "--json"),
        30,
        has_json,
        needs=no_older_release,
    ),
    make("lossy-intake", 40, "ORDERS=300", "RATE=20", "DELAY=3", "JSON=1", judge=has_json),
    make("kill-consumer", 60, "ORDERS=150", "RATE=15", "KILLS=2", "JSON=1", judge=has_json),
    make("chaos", 60, "ORDERS=80", "FAULTS=8", "SPACING=2", judge=has_json),
    make("outages", 70, "ZOOKEEPER=6", "POSTGRES=4", "RATE=8", judge=has_json, needs=no_zookeeper),
    make("test-zookeeper", 100, "COUNT=11", needs=no_zookeeper),
    make("test-kafka", 100, needs=no_kafka),
)
SERVICE: Final = (
    make(
        "up",
        25,
        covers=("manage.py migrate", "manage.py first_start", "manage.py stack services", "manage.py stack services up"),
        on_service=True,
        stays=True,
    ),
    manage("stack up", "--json", judge=has_json, stays=True),
    manage("stack status", "--json", judge=has_json),
    manage("stack env", "--json", judge=has_json),
    manage("place_orders", "--count=40", "--users=10", "--rate=10", "--seed=1", "--json", seconds=8, judge=has_json),
    manage("audit", "--json", "--wait=60", seconds=5, judge=has_json),
    manage("first_start", "--sandbox", "--json", judge=has_json),
    manage("compensate", "--json", judge=has_json),
    manage("reconcile", "--hours=1", "--json", judge=has_json),
    manage("verify_history", "--json", judge=has_json),
    manage("replay", "--from-time=2020-01-01", "--json", judge=has_json),
    manage("consume_binlog", "--group=smoke", "--until-idle=1", seconds=6),
    manage("sandbox", "--port=0", "--data={folder}/other-sandbox", "--kafka=", until="sandbox listens"),
    manage("createsuperuser", "--noinput", "--username=smoke", "--email=smoke@example.com", variables={"DJANGO_SUPERUSER_PASSWORD": "not-a-secret"}),
    manage("remove_second_factor", "smoke", "--json", judge=has_json),
    manage("axes_reset"),
    manage("collectstatic", "--noinput", "--dry-run"),
    manage("demo", "--once", "--count=20", seconds=8),
    manage("stack services status", "--json", judge=has_json),
    manage("stack services restart", "web", seconds=8, stays=True),
    manage("stack services replace", "worker", seconds=10, stays=True),
    manage("stack services down", seconds=10, stays=True),
    manage("mark_restored", "--reason=smoke", "--margin-minutes=0", "--json", judge=has_json),
    make("demo", 35, "ONCE=1", "COUNT=100", on_service=True),
    make("down", 10, on_service=True),
    manage("stack down"),
)


def help_checks() -> list[Check]:
    """`--help` of every command of ours, and of the suites."""
    managed = [
        Check(f"{name} --help", (f"manage.py {name}",), (PY, "manage.py", name, "--help"), 2, helps)
        for name in (*own_commands(), "migrate", "createsuperuser", "collectstatic")
    ]
    modules = ("benchmarks", "stack.supervisor", "tests.chaos", "tests.simulation", "tests.crashpoints", "tests.fuzz.decode")
    suites = ("tests.endurance.lossy", "tests.endurance.kills", "tests.leadership.faults", "tests.leadership.outages", "tests.smoke")
    upgrades = ("tests.upgrade", "tests.upgrade.locks")
    asked = [Check(f"{name} --help", (f"python -m {name}",), (PY, "-m", name, "--help"), 2, helps) for name in (*modules, *suites, *upgrades)]
    return [*managed, *asked]


def checks() -> list[Check]:
    """All, in the order in which they run."""
    return [*help_checks(), *SERVICE, *ALONE]


def known_commands() -> set[str]:
    """Every documented command that a check covers or an exception names."""
    return {command for check in checks() for command in check.covers} | set(EXCEPTIONS)
