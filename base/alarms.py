"""Alarms for operators, and events for the record. An alarm is a log line with its code, a counter
to alert on, and a call of the webhook.
"""

from functools import cache
from typing import Final

import structlog

from base import metrics
from base.webhook import Kind, Webhook, from_settings

log = structlog.get_logger(__name__)
TEXT_MAX: Final = 2_000  # characters of a text in an alarm
_webhook = cache(from_settings)


def alarm(code: str, message: str, **context: object) -> None:
    """Logs at error with `alarm=code` and the context, counts, and hands it to the webhook where
    one is set. Never waits, never fails.

    `code` is a stable word of snake_case: the runbook is ordered by it.
    """
    metrics.ALARMS.labels(code).inc()
    context = _cut(context)
    log.error(message, alarm=code, **context)
    _offer(code, message, context, "alarm")


def notify(code: str, message: str, **context: object) -> None:
    """Records an event outside the database, where it survives the database's loss: a log line at
    warning with `told=code`, and the webhook with `"kind": "event"`.

    Nothing that wakes anybody: no count, no error. `code` is never that of an alarm. Never waits,
    never fails.
    """
    context = _cut(context)
    log.warning(message, told=code, **context)
    _offer(code, message, context, "event")


def _cut(context: dict[str, object]) -> dict[str, object]:
    """Others' words, an answer's of a megabyte say, are cut as our tables cut them."""
    return {name: f"{value[:TEXT_MAX]}…" if isinstance(value, str) and len(value) > TEXT_MAX else value for name, value in context.items()}


def _offer(code: str, message: str, context: dict[str, object], kind: Kind) -> None:
    try:
        webhook = _webhook()
        if webhook is not None:
            webhook.offer(code, message, context, kind=kind)
    except Exception:  # a process that can't start a thread any more, say: who raises an alarm has worse to do
        log.exception("nothing could be handed to the webhook", code=code)


def flush() -> None:
    """Sends what is still queued for the webhook, within its few seconds: for who ends the process
    without its exit handlers.
    """
    webhook: Webhook | None = _webhook()
    if webhook is not None:
        webhook.flush()
