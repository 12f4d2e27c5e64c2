"""What we ask of the broker besides publishing: its generation, and how far a queue has come. Redis
or Valkey, by its own client.
"""

import json
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from time import monotonic
from typing import Any

import redis
from django.conf import settings
from django.db import connection

GENERATION_KEY = "clearing:generation"
GENERATION_SECONDS = 1.0  # how long a process believes what it read; a wiped broker is noticed within the sweep's next passes
QUEUED_MS_HEADER = "queued_ms"


@cache
def client() -> redis.Redis:
    """The process's client; every wait is bounded."""
    return redis.Redis.from_url(settings.BROKER_URL, socket_timeout=2, socket_connect_timeout=2, health_check_interval=10)


@dataclass(slots=True)
class _Known:
    value: str = ""
    read_at: float = float("-inf")


_known = _Known()


def generation() -> str:
    """The broker's generation as last read, at most a second ago; what was last known where it
    doesn't answer. Never raises.

    Inside a transaction it isn't asked either (design, rule 6): whoever opens one reads it before.
    """
    if not connection.in_atomic_block and monotonic() - _known.read_at > GENERATION_SECONDS:
        _known.read_at = monotonic()  # first, so that one thread asks and the others go on with what is known
        with suppress(redis.RedisError):
            read_generation()
    return _known.value


def last_generation() -> str:
    """The generation as last read, without asking: for use inside a transaction (design, rule 6). A
    stale one costs a repeated message.
    """
    return _known.value


def read_generation() -> str:
    """The broker's generation, read now. A broker that has none (new, wiped, restarted empty) is
    given one. Raises redis.RedisError.
    """
    found = client().get(GENERATION_KEY)
    if found is None:
        client().set(GENERATION_KEY, secrets.token_hex(8), nx=True)
        found = client().get(GENERATION_KEY)
    _known.value = found.decode() if isinstance(found, bytes) else ""
    _known.read_at = monotonic()
    return _known.value


def length(queue: str) -> int:
    """How many messages wait in the queue. Raises redis.RedisError."""
    return int(client().llen(queue))


def oldest_queued_ms(queue: str) -> int | None:
    """The database's time of queueing of the queue's oldest message, ms; None when the queue is
    empty or the message isn't one of ours.
    """
    raw = client().lindex(queue, -1)
    if raw is None:
        return None
    try:
        return int(_headers(raw)[QUEUED_MS_HEADER])
    except (ValueError, KeyError, TypeError):
        return None


def waiting(queue: str, limit: int) -> list[dict[str, Any]]:
    """The headers of the queue's newest messages. Raises redis.RedisError."""
    return [headers for message in client().lrange(queue, 0, limit - 1) if (headers := _headers(message))]


def _headers(message: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(message)["headers"]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
