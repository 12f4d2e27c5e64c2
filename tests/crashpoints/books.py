"""The counterparties as they live on while our processes die: their books, their faults, and what
they were sent and when.

They are the service's own fake (`clearing.gateways.fake`), kept by the process that forks the
others. Each call that comes in is held against the database: an operation is written down before
its first call, and no step is sent before the one before it is confirmed.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
from django.db import connection

from base.http import AnswerLost, HttpAnswer, NotSent
from clearing.gateways.fake import FakeCounterparties, Fault
from clearing.gateways.types import Counterparty
from tests.crashpoints.clock import clock

ANY_ORDER: Final = "*"
TABLES: Final = ("sync-orders", "orders")  # of the counter
Answer = HttpAnswer | NotSent | AnswerLost
_WRITTEN_DOWN = (
    "SELECT o.request, o.state, c.state, (SELECT count(*) FROM clearing_operation p WHERE p.clearing_id = o.clearing_id AND p.step < o.step"
    " AND p.state <> 'done' AND p.revision = (SELECT max(revision) FROM clearing_operation q WHERE q.clearing_id = p.clearing_id AND q.step = p.step"
    " AND q.part = p.part)) FROM clearing_operation o JOIN clearing_clearing c ON c.id = o.clearing_id WHERE o.key = %s"
)


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it left a process."""

    method: str
    url: str
    body: bytes
    headers: Mapping[str, str]
    deadline_ms: int
    timestamp_ms: int

    @property
    def host(self) -> str:
        """Whom it is for; the addresses of the three are their names."""
        return urlsplit(self.url).hostname or ""

    @property
    def path(self) -> str:
        """Without the query."""
        return urlsplit(self.url).path

    @property
    def key(self) -> str:
        """The idempotency key that it carries or asks for; empty where it has none."""
        if self.method == "GET":
            return unquote(self.path.rpartition("/")[2]) if self.path.startswith("/v1/operations/") else ""
        return self.headers.get("Idempotency-Key", "")

    @property
    def label(self) -> str:
        """What is called, and for which step."""
        path = "/v1/operations" if self.key and self.method == "GET" else self.path
        return f"{self.host} {self.method} {path}{f' step {step_of(self.key)}' if self.key else ''}"


def step_of(key: str) -> int:
    """The step in an idempotency key, `{order_id}:{step}[.{part}][:r{n}]`; 0 of a key that is no
    order's.
    """
    return int(key.split(":")[1].partition(".")[0]) if ":" in key else 0


@dataclass(slots=True)
class Script:
    """What goes wrong with the calls of an order's step, the first `times`; `asked`: with the
    questions for it.
    """

    step: int
    fault: Fault
    times: int = 1
    asked: bool = False
    order_id: str = ""


@dataclass(slots=True)
class Seen:
    """What came in for one key."""

    sent: int = 0
    asked: int = 0
    doubtful: bool = False  # the last sending may have been applied, and nobody who asked was told since


class Books(FakeCounterparties):
    """The three, and what they saw."""

    def __init__(self) -> None:
        super().__init__(clock.now_ms)
        self.broken: list[str] = []
        self.seen: dict[str, Seen] = {}
        self.scripts: list[Script] = []
        self.tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}  # the counter's, as its interface gives them
        self._late: list[Call] = []
        self._call: Call | None = None
        self.writes_down: Callable[[str], Sequence[Any] | None] = _operation

    def copy(self) -> "Books":
        """The same books once more, from where they may go another way."""
        other = Books()
        other.scripts = [replace(script) for script in self.scripts]
        other.seen = {key: replace(seen) for key, seen in self.seen.items()}
        other.applied, other.tables, other.broken, other._late = list(self.applied), self.tables, list(self.broken), list(self._late)
        for name, service in self._services.items():
            other._services[name]._keys = {key: replace(kept) for key, kept in service._keys.items()}
        return other

    def pick_fault(self, operation: str, order_id: str) -> Fault | None:
        """Of the scripts, by the step that the call's key names."""
        call = self._call
        assert call is not None
        for script in self.scripts:
            wanted = script.order_id in {ANY_ORDER, order_id} and (script.step, script.asked) == (step_of(call.key), call.method == "GET")
            if script.times and wanted:
                script.times -= 1
                return script.fault
        return None

    def answer(self, call: Call) -> Answer:
        """The answer to a call; what was still on its way under the same key arrives right after
        it.
        """
        if not call.key:
            return self._interface(call)
        seen = self._note(call)
        answer = self._serve(call)
        seen.doubtful = not _surely_nothing(answer) if call.method == "POST" else seen.doubtful and not _tells(answer)
        self._arrive([late for late in self._late if late.key == call.key])
        return answer

    def send_late(self, call: Call) -> None:
        """The call has left a process that is dead by now; it arrives later."""
        if call.key:
            self._late.append(call)
            self._note(call).doubtful = call.method == "POST"

    def _note(self, call: Call) -> Seen:
        seen = self.seen.setdefault(call.key, Seen())
        seen.sent += call.method == "POST"
        seen.asked += call.method == "GET"
        if call.method == "POST":
            if seen.doubtful:
                self.broken.append(f"{call.key} was sent again, and nobody had been told what became of it")
            self._held_against_the_database(call)
        return seen

    def arrive_all(self) -> None:
        """Whatever is on its way arrives now, and what was accepted is done, whether or not anybody
        still asks for it.
        """
        self._arrive(list(self._late))
        for service in self._services.values():
            for key in service._keys:
                service._settled(key)

    def _arrive(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._late.remove(call)
            self._serve(call)

    def _serve(self, call: Call) -> Answer:
        self._call = call
        service: Any = self._services[Counterparty(call.host)]
        try:
            answer: HttpAnswer = service.request(
                call.method, call.path, body=call.body, headers=call.headers, deadline_ms=call.deadline_ms, timestamp_ms=call.timestamp_ms
            )
        except (NotSent, AnswerLost) as error:
            return type(error)(error.code, error.detail)
        return answer

    def _held_against_the_database(self, call: Call) -> None:
        row = self.writes_down(call.key)
        if row is None:
            self.broken.append(f"{call.key} was sent before it was written down")
            return
        request, state, clearing_state, unconfirmed = row
        if bytes(request) != call.body:
            self.broken.append(f"{call.key} was sent with other bytes than those written down")
        if state in {"done", "rejected", "planned"} or clearing_state != "running":
            self.broken.append(f"{call.key} was sent while it was {state} and its order {clearing_state}")
        if unconfirmed:
            self.broken.append(f"{call.key} was sent before the step before it was confirmed")

    def _interface(self, call: Call) -> Answer:
        now_ms = clock.now_ms()
        _, _, name, *rest = call.path.split("/")
        asked = {key: int(values[0]) for key, values in parse_qs(urlsplit(call.url).query).items()}
        if name == "shards":
            return _json({"shards": sorted({int(row["shard"]) for rows in self.tables.values() for row in rows}), "now_ms": now_ms})
        if name in self.tables:
            rows = [row for row in self.tables[name] if int(row["shard"]) == asked["shard"]]
            return _json(_counted(rows, asked) if rest == ["counts"] else _page(rows, asked, now_ms))
        self.broken.append(f"a call that nobody expects: {call.label}")
        return AnswerLost("timeout")

    def effects(self, order_id: str) -> Counter[tuple[int, str]]:
        """How often each (step, part) of an order took effect, whatever the revision of its key."""
        parts = (effect.key.split(":")[1] for effect in self.applied if effect.order_id == order_id)
        return Counter((int(part.partition(".")[0]), part.partition(".")[2]) for part in parts)


@dataclass(slots=True)
class Log:
    """Kafka's log of one partition: its messages, and how far the group has committed."""

    messages: list[bytes] = field(default_factory=list)
    committed: int = 0


def _operation(key: str) -> Sequence[Any] | None:
    with connection.cursor() as cursor:
        cursor.execute(_WRITTEN_DOWN, [key])
        row: Sequence[Any] | None = cursor.fetchone()
        return row


def _surely_nothing(answer: Answer) -> bool:
    """Whether the answer says that the call wasn't applied, and may simply be made again."""
    return isinstance(answer, NotSent) or (isinstance(answer, HttpAnswer) and answer.status in {401, 403, 429})


def _tells(answer: Answer) -> bool:
    """Whether the answer to a question says what became of the call, or that nobody knows of it."""
    return isinstance(answer, HttpAnswer) and answer.status in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}


def _json(content: Mapping[str, Any]) -> HttpAnswer:
    return HttpAnswer(200, "application/json", None, msgspec.json.encode(content))


def _page(rows: Sequence[Mapping[str, Any]], asked: Mapping[str, int], now_ms: int) -> dict[str, Any]:
    position = asked["after_ms"], asked["after_id"]
    after = sorted((row for row in rows if _place(row) > position), key=_place)
    page = after[: asked["limit"]]
    following = dict(zip(("ms", "id"), _place(page[-1]), strict=True)) if len(after) > len(page) else None
    return {"now_ms": now_ms, "rows": page, "next": following}


def _place(row: Mapping[str, Any]) -> tuple[int, int]:
    return row["created_ms"], int(row["id"])


def _counted(rows: Sequence[Mapping[str, Any]], asked: Mapping[str, int]) -> dict[str, Any]:
    """By minute; every row is of an exchange."""
    minutes = Counter(row["created_ms"] // 60_000 * 60_000 for row in rows if asked["from_ms"] <= row["created_ms"] < asked["to_ms"])
    return {"minutes": [{"minute_ms": at, "kinds": {"EXCHANGE": count}} for at, count in sorted(minutes.items())]}
