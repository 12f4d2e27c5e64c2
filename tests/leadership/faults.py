"""Faults at random on contenders for leadership: `python -m tests.leadership.faults --count 30
--seed 1 [--zookeepers 3|1|0]`.

After each fault somebody must write again in time; at the end the database is asked whether two
terms ever wrote at one time. The last line is a JSON object with the counts by fault and the
hand-over times. Exit code 0: never; 1: they did, or nobody took over.
"""

import argparse
import json
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stack.processes import Identity, wait_until
from stack.rundir import CHECKOUT
from stack.zookeeper import ZooKeeper
from tests.leadership.trial import Contender, Trial

SESSION_SECONDS = 1.5
TAKE_OVER_SECONDS_MAX = 25.0
TARGETS_LEADER = 0.8  # of the faults that hit a contender


@dataclass
class Faults:
    """One run."""

    trial: Trial
    chance: random.Random
    hand_overs: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def kinds(self) -> dict[str, Callable[[Contender], None]]:
        """Each fault by name; it returns when it is over."""
        common = {
            "sigkill": self.sigkill,
            "sigterm": self.sigterm,
            "sigstop": self.sigstop,
            "cut": self.cut,
            "reset": self.reset,
            "clock_jump": self.clock_jump,
            "database_cut": self.database_cut,
        }
        if not self.trial.ensemble:
            return {**common, "database_frozen": self.database_frozen}
        servers = {"server_restart": self.server_restart, "server_frozen": self.server_frozen}
        if len(self.trial.ensemble) > 1:
            servers |= {"zookeeper_leader_killed": self.zookeeper_leader_killed, "all_servers_restart": self.all_servers_restart}
        return {**common, **servers}

    def run(self, count: int) -> None:
        """So many faults, each kind in turn and in a random order."""
        kinds = self.kinds()
        names = [name for _ in range(count // len(kinds) + 1) for name in self.chance.sample(sorted(kinds), len(kinds))][:count]
        self.trial.await_write(after=0, seconds=TAKE_OVER_SECONDS_MAX)
        for number, name in enumerate(names, 1):
            self._inject(name, kinds[name])
            print(f"{number}/{count} {name}: {self.trial.findings()}", flush=True)  # noqa: T201 - a command's output

    def _inject(self, name: str, fault: Callable[[Contender], None]) -> None:
        victim = self._victim()
        serial, term, _ = self.trial.last_write()
        began = time.monotonic()
        fault(victim)
        after = self.trial.last_write()[0]
        self.trial.await_write(after=after, seconds=TAKE_OVER_SECONDS_MAX)
        self.counts[name] = self.counts.get(name, 0) + 1
        if fault not in {self.sigkill, self.sigterm} and self._next_term_after(term, serial) is not None:
            self.hand_overs.setdefault(name, []).append(time.monotonic() - began)

    def _next_term_after(self, term: int, serial: int) -> int | None:
        found: int | None = self.trial.query("SELECT min(serial) FROM fault_writes WHERE term > %s AND serial > %s", [term, serial])[0][0]
        return found

    def _victim(self) -> Contender:
        leader = self.trial.leader()
        if leader is not None and self.chance.random() < TARGETS_LEADER:
            return leader
        return self.chance.choice(self.trial.contenders)

    # --- What happens to a contender --------------------------------------------------------------
    def sigkill(self, victim: Contender) -> None:
        self._end("sigkill", victim, signal.SIGKILL)

    def sigterm(self, victim: Contender) -> None:
        self._end("sigterm", victim, signal.SIGTERM)

    def sigstop(self, victim: Contender) -> None:
        """For longer than its session: it wakes up under another's term, with a write half done."""
        victim.send(signal.SIGSTOP)
        self._pause(1.2, 2.5)
        victim.send(signal.SIGCONT)

    def cut(self, victim: Contender) -> None:
        """Both ways, from where leadership is settled."""
        for proxy in victim.proxies:
            proxy.cut()
        self._pause(0.5, 2.5)
        for proxy in victim.proxies:
            proxy.heal()

    def reset(self, victim: Contender) -> None:
        for proxy in victim.proxies:
            proxy.reset()

    def clock_jump(self, victim: Contender) -> None:
        """Of the clock by which it judges itself: far ahead, or back by less than it needs to
        notice.
        """
        victim.shift_clock(self.chance.choice([3600.0, -3600.0, -0.3, 0.6]))
        self._pause(0.2, 0.8)

    def database_cut(self, victim: Contender) -> None:
        victim.database.cut()
        self._pause(0.5, 2.5)
        victim.database.heal()

    # --- What happens to the servers --------------------------------------------------------------
    def server_restart(self, _: Contender) -> None:
        server = self.chance.choice(self.trial.ensemble)
        server.kill()
        self._pause(0.0, 1.5)
        server.start()

    def server_frozen(self, _: Contender) -> None:
        server = self.chance.choice(self.trial.ensemble)
        server.freeze()
        self._pause(0.5, 2.5)
        server.thaw()

    def zookeeper_leader_killed(self, _: Contender) -> None:
        wait_until(lambda: self._zookeeper_leader() is not None, 20)
        server = self._zookeeper_leader() or self.trial.ensemble[0]
        server.kill()
        self.trial.await_write(after=self.trial.last_write()[0], seconds=TAKE_OVER_SECONDS_MAX)
        server.start()

    def all_servers_restart(self, _: Contender) -> None:
        for server in self.trial.ensemble:
            server.kill()
        self._pause(0.0, 2.0)
        for server in self.trial.ensemble:
            server.start()

    def database_frozen(self, _: Contender) -> None:
        identity: Identity = self.trial.stack.run_dir.recall().servers["postgres"]
        process = identity.find()
        assert process is not None
        frozen = [process, *process.children()]
        for each in frozen:
            each.suspend()
        self._pause(0.5, 2.5)
        for each in frozen:
            each.resume()

    def _zookeeper_leader(self) -> ZooKeeper | None:
        return next((server for server in self.trial.ensemble if server.mode() == "leader"), None)

    def _end(self, name: str, victim: Contender, number: signal.Signals) -> None:
        """Somebody else goes on, and takes over where the victim led; then the victim comes
        back.
        """
        led = self.trial.leader() is victim
        victim.send(number)
        taken = self.trial.await_write(after=self.trial.last_write()[0], seconds=TAKE_OVER_SECONDS_MAX, besides=victim.name)
        if led:
            self.hand_overs.setdefault(name, []).append(taken)
        victim.end(number)
        victim.start()

    def _pause(self, sessions_min: float, sessions_max: float) -> None:
        time.sleep(SESSION_SECONDS * self.chance.uniform(sessions_min, sessions_max))


def summary(faults: Faults, findings: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the last line says. `new_terms_p50_max_seconds`: of faults after which another term
    wrote.

    From a signal that ended the leader to another's first write; for other faults from their
    beginning to the first write after their end.
    """
    times = {name: [round(statistics.median(found), 2), round(max(found), 2)] for name, found in sorted(faults.hand_overs.items())}
    return {
        "faults": sum(faults.counts.values()),
        "by_fault": dict(sorted(faults.counts.items())),
        **findings,
        "new_terms_p50_max_seconds": times,
        "seconds": round(seconds),
        "passed": not findings["overlaps"] and not findings["terms_of_two_writers"],
    }


def run(count: int, seed: int, zookeepers: int, folder: str) -> dict[str, Any]:
    """A whole run. Raises AssertionError when nobody takes over."""
    began = time.monotonic()
    with Trial(CHECKOUT / ".run" / folder, zookeepers, SESSION_SECONDS) as trial:
        faults = Faults(trial, random.Random(seed))
        faults.run(count)
        return summary(faults, trial.findings(), time.monotonic() - began)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.leadership.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--zookeepers", type=int, choices=(0, 1, 3), default=3, help="0: the lease in PostgreSQL (default: %(default)s)")
    options = parser.parse_args(arguments)
    found = run(options.count, options.seed, options.zookeepers, f"faults-{options.zookeepers}")
    print(json.dumps(found))  # noqa: T201 - a command's output
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
