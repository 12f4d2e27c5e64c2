"""What the database and the broker say when Prometheus asks: few, bounded queries that partial
indexes answer, and never an exception.

A source that doesn't answer within its limit is reported by `acceptance_scrape_ok`; its metrics are
then missing rather than wrong.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal

import redis
import structlog
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.backends.utils import CursorWrapper
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from base import metrics
from clearing.dispatch.queues import ISOLATED_QUEUE, OPS_QUEUE, clearing_queues
from clearing.flow.flows import dues
from clearing.gateways import Counterparty, counterparty_state
from clearing.status import FINAL, Breaker, State

log = structlog.get_logger(__name__)
NEVER_SECONDS = 20 * 365 * 86_400
STATEMENT_MS_MAX = 1_000  # of each query; the scrape's own limit is 10 s by default
UNFINISHED = tuple(state for state in State if state not in FINAL)
# Parked and finished rows differ by orders of magnitude from the rest: only what isn't cleared is
# counted, by the partial index for it.
UNFINISHED_SQL = """
    SELECT state, count(*), extract(epoch FROM service_now()) - min(created_ms) / 1000.0
    FROM clearing_clearing WHERE state <> 'cleared' GROUP BY state
"""
# The time in a subquery: service_now() is volatile, and as a mere expression it would be compared
# row by row instead of by the index.
CLEARED_SQL = """
    SELECT count(*) FROM clearing_clearing WHERE state = 'cleared' AND cleared_at > (SELECT service_now() - interval '1 minute')
"""
NEWEST_SQL = "SELECT extract(epoch FROM service_now()) - created_ms / 1000.0 FROM orders_syncorder ORDER BY id DESC LIMIT 1"
SHARDS_SQL = """
    SELECT shard, found_by_gap, extract(epoch FROM service_now()) - newest_ms / 1000.0,
        extract(epoch FROM service_now()) - scanned_through_ms / 1000.0
    FROM orders_watermark ORDER BY shard
"""
RECONCILE_SQL = """
    SELECT DISTINCT ON (shard) shard, missing, missing - fetched, "unknown", no_sync_row, extract(epoch FROM service_now() - at)
    FROM orders_reconcilerun WHERE error = '' AND id > (SELECT max(id) - 1000 FROM orders_reconcilerun) ORDER BY shard, id DESC
"""
RECONCILE_KINDS = ("missing", "unresolved", "unknown", "no_sync_row")
Families = list[GaugeMetricFamily]


@dataclass(frozen=True, slots=True)
class Shard:
    """How far a shard of the counter is known; None where nothing is yet."""

    number: int
    found_by_gap: int
    newest_seconds_ago: float | None  # the newest order that we hold
    compared_seconds_ago: float | None  # everything before was compared by a finished gap pass


def read_shards(cursor: CursorWrapper) -> list[Shard]:
    """Every shard that we know of."""
    cursor.execute(SHARDS_SQL)
    return [Shard(number, found, _age(newest), _age(compared)) for number, found, newest, compared in cursor.fetchall()]


def _age(seconds: Decimal) -> float | None:
    """A position that was never moved stands at the epoch."""
    return None if seconds > NEVER_SECONDS else float(seconds)


def read_figures(cursor: CursorWrapper) -> tuple[dict[str, tuple[int, float]], int, tuple[float] | None]:
    """(count and age of the oldest by unfinished state, cleared in the last minute, age of the
    newest order or None), within a short limit.
    """
    cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(STATEMENT_MS_MAX)])
    cursor.execute(UNFINISHED_SQL)
    found = {state: (count, float(oldest)) for state, count, oldest in cursor.fetchall()}
    cursor.execute(CLEARED_SQL)
    (cleared,) = cursor.fetchone() or (0,)
    cursor.execute(NEWEST_SQL)
    return found, cleared, cursor.fetchone()


def read_database() -> Families:
    """Clearings by state and age, throughput, the newest order, the shards, the last reconcile, the
    counterparties' states.

    Raises django.db.DatabaseError.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        found, cleared, newest = read_figures(cursor)
        shards = read_shards(cursor)
        cursor.execute(RECONCILE_SQL)
        reconciled = cursor.fetchall()
        states = counterparty_state.read()
    return [
        metrics.CLEARINGS.family([((state,), found.get(state, (0, 0.0))[0]) for state in UNFINISHED]),
        metrics.CLEARINGS_OLDEST.family([((state,), found[state][1]) for state in UNFINISHED if state in found]),
        metrics.CLEARED_LAST_MINUTE.family([((), cleared)]),
        metrics.NEWEST_ORDER_AGE.family([((), float(newest[0]))] if newest else []),
        metrics.SHARD_AGE.family(
            [
                ((str(shard.number), kind), age)
                for shard in shards
                for kind, age in (("newest", shard.newest_seconds_ago), ("compared", shard.compared_seconds_ago))
                if age is not None
            ]
        ),
        metrics.SHARD_FOUND_BY_GAP.family([((str(shard.number),), shard.found_by_gap) for shard in shards]),
        metrics.RECONCILE_DIFFERENCE.family(
            [((str(shard), kind), count) for shard, *counts, _ in reconciled for kind, count in zip(RECONCILE_KINDS, counts, strict=True)]
        ),
        metrics.RECONCILE_AGE.family([((str(row[0]),), float(row[-1])) for row in reconciled]),
        *_counterparty_states(states),
    ]


def _counterparty_states(now: counterparty_state.StateSnapshot) -> Families:
    """Every series at every scrape, so that an alert on one ends with what it was for."""
    steps = [(name, 0) for name in Counterparty] + [(name, int(step)) for name, _, step in (due.partition(":") for due in sorted(dues()))]
    return [
        metrics.BREAKER.family([((name, state), float(now.breaker(name) == state)) for name in Counterparty for state in Breaker]),
        metrics.PAUSED.family([((name, str(step) if step else "all"), float((name, step) in now.paused)) for name, step in steps]),
    ]


def read_broker() -> Families:
    """How long each queue is. Raises redis.RedisError."""
    queues = [*clearing_queues(), ISOLATED_QUEUE, OPS_QUEUE]
    with redis.Redis.from_url(settings.BROKER_URL, socket_timeout=1, socket_connect_timeout=1) as client:
        pipeline = client.pipeline(transaction=False)
        for queue in queues:
            pipeline.llen(queue)
        lengths = pipeline.execute()
    return [metrics.QUEUE_MESSAGES.family([((queue,), length) for queue, length in zip(queues, lengths, strict=True)])]


SOURCES: dict[str, Callable[[], Families]] = {"database": read_database, "broker": read_broker}


class Scrape(Collector):
    """Reads every source when it is collected."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        answered = []
        for source, read in SOURCES.items():
            families = _read(source, read)
            answered.append(((source,), float(families is not None)))
            yield from families or []
        yield metrics.SCRAPE_OK.family(answered)


def _read(source: str, read: Callable[[], Families]) -> Families | None:
    try:
        return read()
    except (DatabaseError, redis.RedisError, OSError) as error:
        log.warning("scrape failed", source=source, error=str(error).strip())
        return None


def exposition() -> bytes:
    """Everything that `/metrics` shows: the counters of the processes, and what database and broker
    say now.
    """
    scraped = CollectorRegistry(auto_describe=False)
    scraped.register(Scrape())
    return metrics.exposition() + generate_latest(scraped)
