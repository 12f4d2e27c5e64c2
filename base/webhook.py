"""Alarms to a webhook: signed as our calls are, from a thread of its own behind a bounded queue, so
that raising an alarm never waits or fails.

The receiver gets `POST ALARM_WEBHOOK_URL` with JSON: `id`, `kind` (`alarm`, or `event`: a record,
for which nobody is woken), `code`, `message`, `context`, `at` (ISO 8601, UTC); headers
`X-Timestamp` and `X-Signature` as in docs/contracts/README.md, part 2, under ALARM_WEBHOOK_KEY. Any
2xx is success. The same id may come more than once: after an answer was lost, and from several
processes that noticed the same thing.
"""

import atexit
import hashlib
import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

import structlog
from django.conf import settings

from base import metrics
from base.fair_queue import FairQueue
from base.http import HttpAnswer, HttpError, SignedClient

log = structlog.get_logger(__name__)
QUEUE_MAX: Final = 500
REMEMBERED_MAX: Final = 5_000
DEADLINE_MS: Final = 3_000  # of one try
PAUSES_SECONDS: Final = (0.5, 2.0)  # between the tries: three of them, 12 s in all at most
FLUSH_SECONDS: Final = 3.0  # at the process's end
SUBJECTS: Final = ("order_id", "counterparty", "shard", "error_code", "step", "intervention", "record", "seal")  # of an alarm
Kind = Literal["alarm", "event"]
TRY_AGAIN: Final = frozenset({408, 425, 429})


class Client(Protocol):
    """The part of base.http.SignedClient that is used."""

    def request(self, method: str, path: str, *, body: bytes, deadline_ms: int, timestamp_ms: int) -> HttpAnswer: ...


@dataclass(frozen=True, slots=True)
class Event:
    """An alarm that is to be sent."""

    id: str
    body: bytes
    code: str
    subject: str


class Webhook:
    """Sends alarms in the background. Safe in threads; after a fork the child has a queue and a
    thread of its own.
    """

    def __init__(self, client: Client, target: str, *, repeat_seconds: float, pauses: tuple[float, ...] = PAUSES_SECONDS) -> None:
        self._client = client
        self._target = target
        self._repeat_seconds = repeat_seconds
        self._pauses = pauses
        self._start_anew()
        os.register_at_fork(after_in_child=self._start_anew)

    def _start_anew(self) -> None:
        self._queue: FairQueue[Event] = FairQueue(QUEUE_MAX)
        self._last: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._busy = threading.Event()

    def offer(self, code: str, message: str, context: Mapping[str, object], *, kind: Kind = "alarm") -> None:
        """Queues the alarm, or the event, unless the same code about the same thing went out less
        than `repeat_seconds` ago. When the queue is full, the code with the most alarms in it gives
        up its newest one: a flood hides no alarm of another code.
        """
        subject = "|".join(str(context.get(name, "")) for name in SUBJECTS)
        with self._lock:
            if self._is_repeat(code, subject):
                metrics.ALARM_WEBHOOK.labels("repeated").inc()
                return
            self._run()
            event = _event(kind, code, message, subject, context, self._repeat_seconds)
            dropped = self._queue.put(code, event)
            if dropped is not None:
                metrics.ALARM_WEBHOOK.labels("dropped").inc()
                log.warning("alarm not sent: too many wait", code=dropped.code, fix="see why the receiver of ALARM_WEBHOOK_URL doesn't take them")
                self._last.pop((dropped.code, dropped.subject), None)  # it may come again at once
            if dropped is not event:
                self._remember(code, subject)

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Waits until every alarm was sent or given up, at most so many seconds. False: some are
        left.
        """
        deadline = time.monotonic() + seconds
        while self._queue.unfinished and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._queue.unfinished

    def _is_repeat(self, code: str, subject: str) -> bool:
        before = self._last.get((code, subject))
        return before is not None and time.monotonic() - before < self._repeat_seconds

    def _remember(self, code: str, subject: str) -> None:
        self._last[code, subject] = time.monotonic()
        self._last.move_to_end((code, subject))
        if len(self._last) > REMEMBERED_MAX:
            self._last.popitem(last=False)

    def _run(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._send_all, args=(self._queue,), name="alarms", daemon=True)
            self._thread.start()

    def _send_all(self, events: FairQueue[Event]) -> None:
        while True:
            event = events.get()
            try:
                self._send(event)
            except Exception:  # the next alarm must be sent, whatever happened to this one
                log.exception("an alarm couldn't be sent", code=event.code)
            finally:
                events.done()

    def _send(self, event: Event) -> None:
        for pause in (*self._pauses, None):
            refusal, again = self._try(event)
            if not refusal:
                metrics.ALARM_WEBHOOK.labels("sent").inc()
                return
            if pause is None or not again:
                break
            time.sleep(pause)
        metrics.ALARM_WEBHOOK.labels("failed").inc()
        log.warning("alarm not sent", code=event.code, id=event.id, error=refusal, fix="see to the receiver of ALARM_WEBHOOK_URL and its key")

    def _try(self, event: Event) -> tuple[str, bool]:
        """("", …) if the receiver took it; otherwise the reason, and whether to try again."""
        try:
            answer = self._client.request("POST", self._target, body=event.body, deadline_ms=DEADLINE_MS, timestamp_ms=time.time_ns() // 1_000_000)
        except HttpError as error:
            return str(error), True
        if 200 <= answer.status < 300:  # noqa: PLR2004
            return "", False
        return f"it answered {answer.status}", answer.status >= 500 or answer.status in TRY_AGAIN  # noqa: PLR2004


def _event(kind: Kind, code: str, message: str, subject: str, context: Mapping[str, object], repeat_seconds: float) -> Event:
    """Processes that raise the same alarm in the same span of time give it the same id."""
    at = datetime.now(UTC)
    span = int(at.timestamp() // max(repeat_seconds, 1))
    event_id = hashlib.sha256(f"{code}|{subject}|{span}".encode()).hexdigest()[:32]
    plain = {"id": event_id, "kind": kind, "code": code, "message": message, "context": dict(context), "at": at.isoformat(timespec="milliseconds")}
    return Event(event_id, json.dumps(plain, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace"), code, subject)


def from_settings() -> Webhook | None:
    """The webhook that the settings name; None where they name none. Its last alarms are flushed at
    the process's end.
    """
    if not settings.ALARM_WEBHOOK_URL:
        return None
    parts = urlsplit(settings.ALARM_WEBHOOK_URL)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    client: Client = SignedClient(f"{parts.scheme}://{parts.netloc}", settings.ALARM_WEBHOOK_KEY)  # type: ignore[assignment]
    webhook = Webhook(client, target, repeat_seconds=settings.ALARM_REPEAT_SECONDS)
    atexit.register(webhook.flush)
    return webhook
