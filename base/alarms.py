"""Alarms: what a person should look at. One place, so that each is a log line with its code and a count to be alerted on."""

import structlog

from base import metrics

log = structlog.get_logger(__name__)


def alarm(code: str, message: str, **context: object) -> None:
    """Logs at error with `alarm=code` and the context, and counts. `code` is a stable word of snake_case: the runbook is ordered by it."""
    metrics.ALARMS.labels(code).inc()
    log.error(message, alarm=code, **context)
