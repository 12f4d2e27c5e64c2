"""The doors of a process that is to die: whatever it does to the database, the broker, another
service or Kafka's log passes here.

Nothing of the service is changed for it: Django's wrapper of statements and its commit, redis-py's
connection, the HTTP client's `request` and the consumer's log are what every effect must come
through, whoever causes it.
"""

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final, NoReturn

import redis.connection
from django.db import connection, connections

from base.http import AnswerLost, HttpAnswer, NotSent, SignedClient
from tests.crashpoints.books import Call
from tests.crashpoints.points import Event, Phase, Plan, Point

EXIT_DIED: Final = 77
BROKER_READS: Final = frozenset(
    {"PING", "HELLO", "SELECT", "CLIENT", "INFO", "GET", "MGET", "EXISTS", "TTL", "PTTL", "LLEN", "LINDEX", "LRANGE", "SMEMBERS", "TIME"}
)
_WRITES: Final = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM)\s+\"?(\w+)", re.IGNORECASE)
_FUNCTIONS: Final = re.compile(r"\b((?:clearing|orders|base|ops)_\w+)\s*\(")
_inherited: Final[list[object]] = []  # a forked child keeps its parent's connections untouched: closing one would end the parent's session


def label_of(sql: str) -> str:
    """A statement in a few words: the function that it calls, or the table that it writes."""
    function = _FUNCTIONS.search(sql)
    if function and "INSERT" not in sql:
        return function[1]
    written = _WRITES.search(sql)
    return f"{written[1].split()[0].lower()} {written[2]}" if written else "read"


def commands_of(packed: Any) -> list[list[bytes]]:
    """The words (the first two) of each command that is about to be sent."""
    data = b"".join(packed) if isinstance(packed, (list, tuple)) else packed.encode() if isinstance(packed, str) else bytes(packed)
    found, at = [], 0
    while at < len(data):
        end = data.index(b"\r\n", at)
        count, at = int(data[at + 1 : end]), end + 2
        words = []
        for _ in range(count):
            end = data.index(b"\r\n", at)
            size = int(data[at + 1 : end])
            words.append(data[end + 2 : end + 2 + size])
            at = end + 2 + size + 2
        found.append(words[:2])
    return found


def _key_kind(key: bytes) -> str:
    return re.sub(r"[.:]?\d+", "", key.decode(errors="replace"))


class Doors:
    """Of one process: counts what goes through, and dies where the plan wants it."""

    def __init__(self, plan: Plan, channel: Connection) -> None:
        self.plan = plan
        self.armed = False
        self.trace: list[Event] = []
        self.broken: list[str] = []
        self.listeners: list[Callable[[Event], None]] = []  # told of every effect when it has happened
        self._channel = channel
        self._counts: Counter[str] = Counter()
        self._inside: list[str] = []
        self._thread = threading.get_ident()
        self._database()
        self._broker()
        self._network()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens in the block is the harness's own."""
        armed, self.armed = self.armed, False
        try:
            yield
        finally:
            self.armed = armed

    def begin(self, label: str) -> Event | None:
        """An effect is about to happen. None: nobody looks."""
        if not self.armed or threading.get_ident() != self._thread:
            return None
        self._counts[label] += 1
        event = Event(label, self._counts[label])
        self.trace.append(event)
        self.reach(event, Phase.BEFORE)
        return event

    def end(self, event: Event | None) -> None:
        """It has happened."""
        if event is not None:
            self.reach(event, Phase.AFTER)
            for listener in self.listeners:
                listener(event)

    def is_planned(self, event: Event | None, phase: Phase) -> bool:
        """Whether the process dies here."""
        return event is not None and self.plan.dies_at == Point(event.label, event.nth, phase)

    def reach(self, event: Event, phase: Phase) -> None:
        """Dies here, if this is the place."""
        if self.is_planned(event, phase):
            self.die()

    def die(self) -> NoReturn:
        """As by SIGKILL: nothing is cleaned up, nothing is flushed, no `finally` runs."""
        self._channel.send(("died", (self.trace, self.broken)))
        os._exit(EXIT_DIED)

    # --- the database -----------------------------------------------------------------------------
    def _database(self) -> None:
        inherited = connections["default"]
        _inherited.append(inherited)
        own: Any = inherited.copy()
        connections["default"] = own
        own.execute_wrappers.append(self._statement)
        commit, rollback = own._commit, own._rollback

        def _commit() -> None:
            if not self.armed:
                commit()
                return
            event = self.begin(f"db commit of {', '.join(dict.fromkeys(self._inside)) or 'nothing'}")
            self._inside.clear()
            if event is not None and self.plan.records:
                event.wrote = wrote(own.connection)
            commit()
            self.end(event)

        def _rollback() -> None:
            self._inside.clear()
            rollback()

        own._commit, own._rollback = _commit, _rollback

    def _statement(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Mapping[str, Any]) -> Any:
        label = label_of(str(sql))
        if not self.armed or context["connection"].in_atomic_block:
            if self.armed and label != "read":
                self._inside.append(label)
            return execute(sql, params, many, context)
        event = self.begin(f"db {label}")
        if event is not None and self.plan.records:
            result, event.wrote = observed(context["connection"].connection, lambda: execute(sql, params, many, context))
        else:
            result = execute(sql, params, many, context)
        self.end(event)
        return result

    # --- the broker -------------------------------------------------------------------------------
    def _broker(self) -> None:
        real: Any = redis.connection.AbstractConnection
        send, read = real.send_packed_command, real.read_response
        pending: dict[int, tuple[Event | None, int]] = {}  # by connection: the effect and how many answers are to come

        def send_packed_command(this: Any, command: Any, check_health: bool = True) -> Any:
            commands = commands_of(command) if self.armed else []
            written = [words for words in commands if words[0].decode().upper() not in BROKER_READS]
            if commands and connection.in_atomic_block:
                self.broken.append(f"the broker was asked inside a transaction: {commands[0][0].decode()}")
            event = self.begin(f"broker {written[0][0].decode().lower()} {_key_kind(written[0][-1])}") if written else None
            result = send(this, command, check_health)
            if event is not None:
                pending[id(this)] = event, len(commands)
            return result

        def read_response(this: Any, *args: Any, **kwargs: Any) -> Any:
            result = read(this, *args, **kwargs)
            if id(this) in pending:
                event, left = pending.pop(id(this))
                if left > 1:
                    pending[id(this)] = event, left - 1
                else:
                    self.end(event)
            return result

        real.send_packed_command, real.read_response = send_packed_command, read_response

    # --- other services ---------------------------------------------------------------------------
    def _network(self) -> None:
        def request(this: Any, method: str, path: str, *, body: bytes = b"", headers: Any = None, deadline_ms: int, timestamp_ms: int) -> HttpAnswer:
            call = Call(method, f"{this._origin}{this._prefix}{path}", body, dict(headers or {}), deadline_ms, timestamp_ms)
            if self.armed and connection.in_atomic_block:
                self.broken.append(f"a call inside a transaction: {call.label}")
            event = self.begin(f"call {call.label}")
            if self.is_planned(event, Phase.ON_ITS_WAY):
                self._channel.send(("late_call", call))
                self.die()
            self._channel.send(("call", call))
            answer = self._channel.recv()
            self.end(event)
            if isinstance(answer, (NotSent, AnswerLost)):
                raise answer
            assert isinstance(answer, HttpAnswer)
            return answer

        SignedClient.request = request  # type: ignore[method-assign, assignment]


def observed(raw: Any, act: Callable[[], Any]) -> tuple[Any, bool]:
    """Runs a statement that would have been a transaction of its own as one that is looked into.
    Returns its result and whether it wrote.
    """
    raw.autocommit = False
    try:
        result = act()
        found = wrote(raw)
        raw.commit()
    except BaseException:
        raw.rollback()
        raise
    finally:
        raw.autocommit = True
    return result, found


def wrote(raw: Any) -> bool:
    """Whether the open transaction has written anything: only then has it got a number."""
    with raw.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        found: bool = cursor.fetchone()[0]
    return found
