"""What is done to processes, servers and messages, and whom it hits."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import psutil
import redis

from stack.processes import gone
from stack.rundir import CHECKOUT
from tests.chaos.plan import Planned
from tests.chaos.recovery import Affected, claimed_by, in_states, now_ms, query
from tests.chaos.stage import Stage

ACTIVE: Final = ("queued", "running", "retrying", "pending", "unknown")
DUE: Final = ("retrying", "pending", "unknown")
SPAN_MS: Final = 2_000  # orders placed so long after an intake fault were hit by it
SERVER_SECONDS_MAX: Final = 20
BACKLOG_SECONDS: Final = 1.5
TIMES: Final = 5
SUSPECTS_MAX: Final = 3  # at any time: they run one after the other
SUSPECT_SECONDS_MAX: Final = 8.0  # until one of them is run: its message has to be missed first
SUSPECT_LOOK_SECONDS: Final = 0.02
MAKE_SUSPECTS: Final = """
    UPDATE clearing_clearing SET deaths = 3 WHERE id IN (SELECT id FROM clearing_clearing WHERE state IN ('waiting', 'queued') AND deaths = 0
        ORDER BY id LIMIT greatest(%s - (SELECT count(*) FROM clearing_clearing WHERE deaths >= 3 AND state <> 'cleared'), 0) FOR UPDATE SKIP LOCKED)
    RETURNING id
"""
HOW_SERVERS_END: Final = {"restart": signal.SIGTERM, "kill": signal.SIGKILL, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


@dataclass
class Faults:
    """Does one fault after the other, and notes whom each hit."""

    stage: Stage
    affected: list[Affected] = field(default_factory=list)
    spans: list[tuple[str, float, float]] = field(default_factory=list)  # series, from, until: orders placed then
    replays: int = 0
    replay: "subprocess.Popen[bytes] | None" = None

    def do(self, planned: Planned) -> int:
        """One fault, from its beginning until what it took away is given back. Returns how many
        orders were seen to be hit.
        """
        before = len(self.affected)
        kind = planned.kind
        acts: dict[str, Callable[[Planned], None]] = {
            "messages_replay": self._replay,
            "messages_fivefold": self._fivefold,
            "valkey_flushall": self._flushall,
            "valkey_flushall_backlog": self._flushall_backlog,
            "valkey_freeze": self._freeze_server,
            "worker_suspects_kill": self._kill_beside_a_suspect,
        }
        act = acts.get(kind.name) or (self._end_server if kind.target in {"valkey", "postgres", "kafka"} else self._process)
        act(planned)
        return sum(len(one.clearing_ids) for one in self.affected[before:])

    def close(self) -> None:
        """Ends what a fault may have left running."""
        if self.replay is not None and self.replay.poll() is None:
            self.replay.kill()
            self.replay.wait()

    # --- Processes --------------------------------------------------------------------------------
    def _process(self, planned: Planned) -> None:
        name = self.stage.oldest(planned.kind.target)
        victim = self._victim(name, planned.draw)
        at_ms = now_ms()
        if planned.kind.how == "freeze":
            with frozen([victim]):
                self._note(planned, at_ms, [victim.pid])
                time.sleep(planned.seconds)
            return
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL if planned.kind.how == "kill" else signal.SIGTERM)
        self._note(planned, at_ms, [victim.pid])

    def _kill_beside_a_suspect(self, planned: Planned) -> None:
        """Some orders are made what three deaths of their workers would make of them, and who runs
        them alone dies while it does.
        """
        name = self.stage.oldest(planned.kind.target)
        deadline = time.monotonic() + SUSPECT_SECONDS_MAX
        while time.monotonic() < deadline and not claimed_by([self.stage.service.pid(name)]):
            query(MAKE_SUSPECTS, [SUSPECTS_MAX])
            time.sleep(SUSPECT_LOOK_SECONDS)
        self._process(planned)

    def _victim(self, name: str, draw: float) -> psutil.Process:
        """The process, or one of its children: both have to be borne."""
        parent = psutil.Process(self.stage.service.pid(name))
        family = [parent, *parent.children(recursive=True)]
        return family[int(draw * len(family))]

    def _note(self, planned: Planned, at_ms: float, pids: Sequence[int]) -> None:
        match planned.kind.target:
            case "worker" | "worker-suspects":
                self._hit(planned, at_ms, claimed_by(pids))
            case "consumer":
                self._note_intake(planned, at_ms)
            case "beat" | "worker-ops":
                self._hit(planned, at_ms, in_states(*DUE))
            case _:
                self._hit(planned, at_ms, in_states(*ACTIVE), done=True)

    def _note_intake(self, planned: Planned, at_ms: float, *, before_ms: float = 0) -> None:
        self.spans.append((planned.kind.name, at_ms - before_ms, at_ms + SPAN_MS))

    def _hit(self, planned: Planned, at_ms: float, clearing_ids: Sequence[int], *, done: bool = False) -> None:
        self.affected.append(Affected(planned.kind.name, at_ms, clearing_ids, done))

    # --- Servers ----------------------------------------------------------------------------------
    def _server(self, name: str) -> psutil.Process:
        return psutil.Process(self.stage.stack.run_dir.recall().servers[name].pid)

    def _end_server(self, planned: Planned) -> None:
        kind = planned.kind
        server, hit = self._server(kind.target), in_states(*(("queued",) if kind.target == "valkey" else ACTIVE))
        at_ms = now_ms()
        server.send_signal(HOW_SERVERS_END[kind.how])
        if not gone(server, SERVER_SECONDS_MAX):
            raise RuntimeError(f"{kind.target} didn't end within {SERVER_SECONDS_MAX} s")
        before = self.stage.stack.environment()
        if self.stage.stack.up() != before:
            raise RuntimeError(f"{kind.target} came back at another address, where nobody looks for it: this run shows nothing")
        if kind.target == "kafka":
            self._note_intake(planned, at_ms, before_ms=SPAN_MS / 4)
        else:
            self._hit(planned, at_ms, hit)

    def _freeze_server(self, planned: Planned) -> None:
        at_ms = now_ms()
        with frozen([self._server(planned.kind.target)]):
            self._hit(planned, at_ms, in_states("queued"))
            time.sleep(planned.seconds)

    def _flushall(self, planned: Planned) -> None:
        at_ms = now_ms()
        redis.Redis.from_url(self.stage.service.variable("BROKER_URL")).flushall()
        self._hit(planned, at_ms, in_states("queued"))

    def _flushall_backlog(self, planned: Planned) -> None:
        """The workers stand still until some orders wait in the broker; then it is wiped, and they
        go on.
        """
        workers = [psutil.Process(self.stage.service.pid(name)) for name in self.stage.all_of("worker")]
        with frozen(workers):
            time.sleep(BACKLOG_SECONDS)
            self._flushall(planned)

    # --- Messages ---------------------------------------------------------------------------------
    def _replay(self, planned: Planned) -> None:
        """A second group reads the topic from its beginning, in the background."""
        self.close()
        self._note_intake(planned, now_ms())
        self.replays += 1
        command = [sys.executable, "manage.py", "consume_binlog", f"--group=again-{self.replays}", "--until-idle=2"]
        environment = {**self.stage.service.environment, "KAFKA_INSTANCE_ID": ""}
        with (self.stage.service.folder / "logs" / "replay.log").open("ab") as log:
            self.replay = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log)

    def _fivefold(self, planned: Planned) -> None:
        """The chains of all orders in flight, five times each at once."""
        from clearing.dispatch import publish
        from clearing.store.claims import ClearingRef

        sql = "SELECT id, epoch, step, lane, clearing_ms(queued_at) FROM clearing_clearing WHERE state = ANY (%s)"
        refs = [ClearingRef(*row) for row in query(sql, [list(ACTIVE)])]
        self._hit(planned, now_ms(), [ref.id for ref in refs])
        publish.publish([ref for ref in refs for _ in range(TIMES)])


@contextmanager
def frozen(processes: Iterable[psutil.Process]) -> Iterator[None]:
    """Stands them still; they go on at the end, whatever happens."""
    stopped = list(processes)
    try:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in stopped:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
