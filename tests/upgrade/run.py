"""One upgrade from an older release to this one and back, step by step, while orders flow."""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stack.rundir import CHECKOUT
from tests.support.servers import forget_durability
from tests.support.waiting import wait_until
from tests.upgrade.operators import Operator, create_operators
from tests.upgrade.release import Release, UpgradeError, worktree
from tests.upgrade.scene import Scene, Servers

SANDBOX = "sandbox"
SHARED = {  # what both releases must agree on, as in production
    "KAFKA_TOPIC": "upgrade.sync_order",
    "SECRET_KEY": "the upgrade test's secret key",
    **{f"{name}_KEY": f"the {name}'s key" for name in ("COUNTER", "FUND", "TRADING")},
}
PHASE_SECONDS_MAX = 240
FINISHED = {"cleared", "voided"}
CALLS_SQL = """
    SELECT count(*) FROM clearing_attempt a JOIN base_incarnation i ON i.name = a.worker WHERE i.pid = ANY (%s) AND a.outcome = 'done'
"""


@dataclass
class Report:
    """What the run has shown."""

    from_commit: str
    to_commit: str
    phases: list[dict[str, Any]] = field(default_factory=list)
    states_before: dict[str, int] = field(default_factory=dict)
    states_after: dict[str, int] = field(default_factory=dict)
    migrate_seconds: float = 0.0
    quarantined: int = 0
    audit: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether everything cleared or was voided, and the audit found nothing."""
        return bool(self.audit.get("passed") and self.audit.get("all_cleared"))

    def as_json(self) -> dict[str, Any]:
        """With the verdict."""
        kept = ("placed", "cleared", "by_state", "missing", "unplaced", "doubled", "out_of_order", "broken", "balanced")
        return {**self.__dict__, "audit": {name: self.audit.get(name) for name in kept}, "passed": self.passed}


class Upgrade:
    """Both releases on the same servers. `orders`: how many flow in each phase; `short`: the old
    functions stay away.
    """

    def __init__(
        self, old: Release, new: Release, servers: Servers, report: Report, *, orders: int, rate: int, short: bool, show: Callable[[str], None]
    ) -> None:
        self._old, self._new, self._servers, self._report = old, new, servers, report
        self._orders, self._rate, self._short, self._show = orders, rate, short, show
        self._pids: dict[str, set[int]] = {old.name: set(), new.name: set()}
        self._processes = {release.name: _processes(release.checkout) for release in (old, new)}
        self._seed = 0

    def run(self) -> None:
        """All phases; the report says what happened. Raises UpgradeError or AssertionError."""
        scene, operators = self._populate()
        with self._phase("migrate while orders flow", self._old):
            slow, states = scene.burst()
            self._migrate(states)
            self._servers.clear_faults(slow)
        with self._phase("old processes on the new schema", self._old):
            pass
        self._new.manage("stack", "up")
        self._new.services("up")
        with self._phase("both releases side by side", self._old, self._new):
            pass
        self._old.services("down", *self._processes["old"])
        with self._phase("new release alone", self._new):
            pass
        self._old.services("up", *self._processes["old"])
        self._new.services("down")
        with self._phase("rolled back: old processes, new schema and functions", self._old):
            pass
        if not self._short:
            self._old.migrate(roll_back=True)
            with self._phase("rolled back: old functions as well", self._old):
                pass
            self._new.migrate()
        self._new.services("up")
        with self._phase("forward again, side by side", self._new):
            pass
        self._old.services("down", *self._processes["old"])
        self._resolve(scene, operators)
        self._audit()

    def _populate(self) -> tuple[Scene, list[str]]:
        self._show("the old release starts, and makes orders in every state")
        create_operators(self._old, "ann", "bob")
        self._old.services("up")
        scene, url = Scene(self._servers, self._old), self._old.web_url()
        scene.set_up(Operator("ann", url), Operator("bob", url))
        return scene, ["ann", "bob"]

    def _migrate(self, before: Counter[str]) -> None:
        calls, began = self._calls(self._old), time.monotonic()
        self._new.migrate()
        self._report.migrate_seconds = round(time.monotonic() - began, 2)
        self._report.states_before, self._report.states_after = dict(before), dict(self._servers.states())
        if self._calls(self._old) == calls:
            raise UpgradeError("no call succeeded while the migration ran: it met no load")

    @contextmanager
    def _phase(self, name: str, *releases: Release) -> Iterator[None]:
        """Orders flow; each of the releases must make its share of the calls."""
        self._show(name)
        self._seed += 1
        options = [f"--count={self._orders}", "--users=30", f"--rate={self._rate}", f"--seed={self._seed}"]
        before, began = {release.name: self._calls(release) for release in (self._old, self._new)}, time.monotonic()
        with self._old.start("place_orders", *options) as placing:
            yield
            if placing.wait(PHASE_SECONDS_MAX):
                raise UpgradeError(f"{name}: place_orders ended with {placing.returncode}")
        wait_until(lambda: all(self._calls(release) > before[release.name] for release in releases), seconds=PHASE_SECONDS_MAX)
        self._wait_for_backlog()
        made = {release.name: self._calls(release) - before[release.name] for release in (self._old, self._new)}
        self._report.phases.append({"name": name, "seconds": round(time.monotonic() - began, 1), **made})

    def _wait_for_backlog(self) -> None:
        """Until nothing is queued or running: what waits then waits behind orders of the scene."""
        wait_until(lambda: not (self._servers.states()["queued"] or self._servers.states()["running"]), seconds=PHASE_SECONDS_MAX)

    def _calls(self, release: Release) -> int:
        """Successful calls that this release's processes have made."""
        pids = self._pids[release.name]
        pids.update(release.pids())
        return self._servers.count(CALLS_SQL, list(pids))

    def _resolve(self, scene: Scene, operators: Sequence[str]) -> None:
        """Ends what the old release parked and what its operators requested."""
        self._show("operators resolve what the old release parked")
        self._report.quarantined = scene.quarantined()
        ann, bob = (Operator(name, self._new.web_url()) for name in operators)
        void, confirmation = scene.interventions
        bob.decide(void, "approve")
        bob.decide(confirmation, "refuse")
        states = dict(self._servers.query("SELECT id, state FROM clearing_intervention WHERE id = ANY (%s)", [void, confirmation]))
        if states != {void: "executed", confirmation: "refused"}:
            raise UpgradeError(f"the interventions that the old release left open ended as {states}")
        self._servers.clear_faults()
        ann.retry([pk for (pk,) in self._servers.query("SELECT id FROM clearing_clearing WHERE state = 'parked' ORDER BY id")])
        for (pk,) in self._servers.query("SELECT id FROM base_proposal WHERE state = 'requested'"):  # so many that they need a second person
            bob.approve(pk)
        wait_until(lambda: set(self._servers.states()) <= FINISHED, seconds=PHASE_SECONDS_MAX)

    def _audit(self) -> None:
        self._show("audit")
        ended = self._new.manage("audit", "--json", "--wait=60", expect=None)
        self._report.audit = json.loads(ended.stdout)


def _processes(checkout: Path) -> list[str]:
    """The Procfile's processes but the sandbox, which both releases call."""
    lines = (checkout / "Procfile").read_text().splitlines()
    names = [line.split(":", 1)[0] for line in lines if ":" in line and not line.startswith("#")]
    return [name for name in names if name != SANDBOX]


def run(from_commit: str, to_commit: str, *, orders: int, rate: int, short: bool, show: Callable[[str], None]) -> Report:
    """Upgrades from the commit to this checkout. Raises UpgradeError, with the ends of all logs."""
    report = Report(from_commit, to_commit)
    with tempfile.TemporaryDirectory(prefix="upgrade-") as name, ExitStack() as ends:
        folder = Path(name)
        checkout = ends.enter_context(worktree(from_commit, folder))
        old = Release("old", checkout, checkout / ".venv" / "bin" / "python", folder / "old", dict(SHARED))
        new = Release("new", CHECKOUT, Path(sys.executable), folder / "new")
        ends.callback(old.manage, "stack", "down", expect=None)
        old.manage("stack", "up")
        variables = json.loads(old.manage("stack", "env", "--json").stdout)
        forget_durability(variables["DATABASE_URL"])
        servers = Servers({**variables, **SHARED})
        shared = {name: value for name, value in variables.items() if name not in {"WEB_PORT", "SANDBOX_PORT"}}
        # Our operators are minutes old; the stack of the release before doesn't say so.
        new.environment = {**shared, **SHARED, "KAFKA_INSTANCE_ID": "consumer-new", "APPROVER_SETTLED_HOURS": "0"}
        ends.callback(new.manage, "stack", "down", expect=None)
        old.migrate()
        try:
            Upgrade(old, new, servers, report, orders=orders, rate=rate, short=short, show=show).run()
        except (UpgradeError, AssertionError, OSError) as error:
            seen = f"{old.log_tails()}\n{new.log_tails()}\nstates: {dict(servers.states())}"
            raise UpgradeError(str(error), seen) from error
    return report
