"""Logs: one JSON object a line on stdout, the same for our lines, Django's, Celery's and every
library's.

Imported by settings.py, so it needs neither settings nor apps. `LOG_FORMAT=console` makes lines for
people's eyes. No format shows the local variables of a traceback, and secrets are taken out of
every line (base/redaction.py).
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.typing import Processor

from base.redaction import Redaction

FORMATS = ("json", "console")
# What libraries say that isn't worth a line an order: Celery's "received" and "succeeded", clients'
# chatter.
QUIET = {
    "celery.worker.strategy": "WARNING",
    "celery.app.trace": "WARNING",
    "celery.beat": "WARNING",
    "kombu": "WARNING",
    "kafka": "WARNING",
    "kafka.net": "ERROR",  # some ten lines a second while a broker is away
    "kafka.cluster": "ERROR",
    "kazoo": "WARNING",
    "asyncio": "WARNING",
    "django.server": "WARNING",
}
# What every line passes through, whoever wrote it.
COMMON: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    structlog.processors.StackInfoRenderer(),
)


@contextmanager
def bind_order(order_id: str, *, step: int | None = None, epoch: int | None = None) -> Iterator[None]:
    """Every line logged inside carries the order's id, and the step and epoch where they are
    given.
    """
    known = {"order_id": order_id, "step": step, "epoch": epoch}
    with structlog.contextvars.bound_contextvars(**{name: value for name, value in known.items() if value is not None}):
        yield


def django_logging(log_format: str, level: str, secrets: Iterable[str] = ()) -> dict[str, Any]:
    """The LOGGING of settings.py; also sets structlog up. Raises ValueError for a format or a level
    that doesn't exist. `secrets`: values that no line may hold, looked at when logging begins.
    """
    if log_format not in FORMATS:
        raise ValueError(f"LOG_FORMAT is {log_format!r}: set it to one of {', '.join(FORMATS)}")
    if level.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"LOG_LEVEL is {level!r}: set it to DEBUG, INFO, WARNING or ERROR")
    _configure_structlog()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": _formatter, "log_format": log_format, "secrets": secrets}},
        "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "lines"}},
        "root": {"handlers": ["stdout"], "level": level.upper()},
        # Django's own defaults would print its lines a second time
        "loggers": {name: {"level": quiet} for name, quiet in QUIET.items()} | {"django": {"handlers": [], "propagate": True}},
    }


def leave_stdout() -> None:
    """Moves the log to stderr: for commands whose stdout is their result (`audit --json`)."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in {sys.stdout, sys.__stdout__}:
            handler.setStream(sys.stderr)


def _configure_structlog() -> None:
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *COMMON,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _formatter(log_format: str, secrets: Iterable[str]) -> structlog.stdlib.ProcessorFormatter:
    redaction = Redaction(secrets)
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if log_format == "console"
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*COMMON, structlog.stdlib.ExtraAdder(allow=None)],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redaction.by_name, *last, redaction.by_value],
    )
