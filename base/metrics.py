"""Every metric of the service, each by its name in one place, and how a process shows them
(docs/decisions/0003-metrics.md).

Two kinds: what a process counts itself (counters and histograms below), and what the database and
the broker say when somebody asks (`SCRAPED`, read by ops/monitoring/scrape.py). With METRICS_DIR
set, the processes of one machine share a folder and `/metrics` of any of them shows the sums over
all; without, each shows its own, on METRICS_PORT where one is set.

What counts is called by the paths that do the work, so nothing here raises and nothing here asks
the database.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Final, Protocol

from django.conf import settings
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector


def _share(folder: str) -> None:
    """Makes every metric defined after this a value in a file of `folder`, one file a process."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


if settings.METRICS_DIR:
    _share(settings.METRICS_DIR)
REGISTRY: Final = CollectorRegistry()


# --- Intake ---------------------------------------------------------------------------------------
class IntakeResult(StrEnum):
    """What became of one row that came in."""

    ACCEPTED = "accepted"  # a new order, stored with its clearing
    KNOWN = "known"  # the same order again, with the same contents
    FILTERED = "filtered"  # not an exchange order, older than INTAKE_SINCE, or another table's
    REFUSED = "refused"  # readable, but not a valid order: quarantined too
    QUARANTINED = "quarantined"  # kept whole, for operators
    ARCHIVED = "archived"  # deleted at the counter, of an order that is finished for longer than RECONCILE_HOURS


# Rows that came in, by where from (kafka, gap, replay, restore) and what became of them.
INTAKE_ROWS = Counter("acceptance_intake_rows_total", "Rows that came in.", ["source", "result"], registry=REGISTRY)
# What the binlog said was done to the counter's table: insert, update, delete (rows), ddl.
INTAKE_CHANGES = Counter("acceptance_intake_changes_total", "Changes of the counter's table.", ["operation"], registry=REGISTRY)
# How many messages of a partition lie before us: the log's end less the consumer's position.
INTAKE_LAG = Gauge("acceptance_intake_lag_messages", "Messages not yet read.", ["partition"], registry=REGISTRY, multiprocess_mode="mostrecent")

# --- Clearing -------------------------------------------------------------------------------------
# Every row of the attempts table, by its Outcome: a call that was made (action adjust, transfer,
# exchange), a status query (action ask), and a call that a dead worker may have made (outcome lost,
# counted by the sweep). Counted once the row is known to be written: a row whose commit nobody was
# told of, since the database or the process failed, isn't counted.
ATTEMPTS = Counter("acceptance_attempts_total", "Attempts written down.", ["counterparty", "action", "outcome"], registry=REGISTRY)
# Claims that were gone: at_claim, a message for a clearing that another worker has (harmless);
# at_record, after the call.
CLAIMS_LOST = Counter("acceptance_claims_lost_total", "Claims that were gone.", ["when"], registry=REGISTRY)
# Clearings whose message the broker didn't take; the sweep sends them again.
PUBLISH_FAILURES = Counter("acceptance_publish_failures_total", "Clearings not published.", registry=REGISTRY)
# What the sweep did, in clearings: claims taken back, due ones queued, messages sent again, lanes
# promoted.
SWEEP_ACTIONS = Counter("acceptance_sweep_actions_total", "Clearings that the sweep moved.", ["action"], registry=REGISTRY)


class Stage(StrEnum):
    """The parts of an order's journey that are timed. Where two clocks meet (counter's and ours)
    the difference counts as latency.
    """

    COUNTER_TO_ACCEPTED = "counter_to_accepted"  # the row's own milliseconds to our commit
    QUEUED_TO_CLAIMED = "queued_to_claimed"  # head of its lane to a worker's claim: the broker's and the workers' share
    COUNTER_TO_CLAIMED = "counter_to_claimed"  # the first claim only; behind older orders of the user it contains the wait for them
    STEP_1 = "step_1"  # the calls themselves
    STEP_2 = "step_2"
    STEP_3 = "step_3"
    STEP_4 = "step_4"
    CLAIMED_TO_CLEARED = "claimed_to_cleared"
    COUNTER_TO_CLEARED = "counter_to_cleared"  # what the exchange pays for


STAGE_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300)
# Seconds of each stage.
STAGES = Histogram("acceptance_stage_seconds", "Time of a stage.", ["stage"], buckets=STAGE_SECONDS, registry=REGISTRY)
_stages = {stage: STAGES.labels(stage) for stage in Stage}
_steps = {1: _stages[Stage.STEP_1], 2: _stages[Stage.STEP_2], 3: _stages[Stage.STEP_3], 4: _stages[Stage.STEP_4]}

# --- Leadership -----------------------------------------------------------------------------------
# 1 while this process may act as the leader. The sum over all beats: 1; 0 for long: nobody leads; 2
# for a moment: a hand-over.
IS_LEADER = Gauge("acceptance_is_leader", "Whether the process leads.", registry=REGISTRY, multiprocess_mode="livesum")
# The term that this process leads under; 0 while it doesn't.
LEADER_TERM = Gauge("acceptance_leader_term", "The term of the leader.", registry=REGISTRY, multiprocess_mode="livemax")
# Terms that this process took, by why.
HANDOVERS = Counter("acceptance_leader_handovers_total", "Terms taken.", ["reason"], registry=REGISTRY)


class JobResult(StrEnum):
    """What became of a periodic job."""

    DONE = "done"
    FAILED = "failed"
    OUTDATED = "outdated"  # of a term that is over: it wrote nothing, or nothing more
    BUSY = "busy"  # left out: the one before still runs


# Periodic jobs that a worker took from the queue.
JOBS = Counter("acceptance_jobs_total", "Periodic jobs.", ["job", "result"], registry=REGISTRY)
# Periodic jobs that the leader didn't send, since one like it still waits.
JOBS_NOT_SENT = Counter("acceptance_jobs_not_sent_total", "Periodic jobs not piled up.", ["job"], registry=REGISTRY)

# --- Alarms ---------------------------------------------------------------------------------------
# What an operator should look at, by the alarm's code (base/alarms.py; docs/runbook.md has a page
# for each).
ALARMS = Counter("acceptance_alarms_total", "Alarms raised.", ["code"], registry=REGISTRY)
# What became of them at the webhook: sent, failed (given up), dropped (too many waited), repeated
# (the same, too soon after the last).
ALARM_WEBHOOK = Counter("acceptance_alarm_webhook_total", "Alarms for the webhook.", ["result"], registry=REGISTRY)


# --- Read at the scrape ---------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Scraped:
    """A metric whose samples are read when somebody asks for them."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    def family(self, samples: Sequence[tuple[tuple[str, ...], float]]) -> GaugeMetricFamily:
        """The metric with its samples, each (label values, value)."""
        family = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        for label_values, value in samples:
            family.add_metric(label_values, value)
        return family


# Clearings that aren't finished, by state.
CLEARINGS: Final = Scraped("acceptance_clearings", "Unfinished clearings.", ("state",))
# The age of the oldest order in each of those states, from the counter's own time.
CLEARINGS_OLDEST: Final = Scraped("acceptance_clearings_oldest_seconds", "Age of the oldest unfinished order.", ("state",))
# Cleared in the last minute: the throughput as the database saw it, whatever process did it.
CLEARED_LAST_MINUTE: Final = Scraped("acceptance_cleared_last_minute", "Orders cleared in the last 60 s.")
# Seconds since the newest accepted order was made at the counter: silence of the intake shows here.
NEWEST_ORDER_AGE: Final = Scraped("acceptance_newest_order_age_seconds", "Age of the newest accepted order.")
# Of each of the counter's shards: newest, the age of the newest order that we hold; compared, the
# age up to which gap compensation compared it.
SHARD_AGE: Final = Scraped("acceptance_shard_age_seconds", "How far a shard is known.", ("shard", "kind"))
# Orders that only gap compensation brought, by shard, since ever.
SHARD_FOUND_BY_GAP: Final = Scraped("acceptance_shard_found_by_gap", "Orders that only the gap pass brought.", ("shard",))
# Orders on which we and the counter's tables differed at the last reconcile. missing: not with us;
# unresolved: nor after it; unknown: with us alone; no_sync_row: only in the counter's order table.
RECONCILE_DIFFERENCE: Final = Scraped("acceptance_reconcile_difference", "Orders that differ from the counter's.", ("shard", "kind"))
# Seconds since each shard was last compared, wholly.
RECONCILE_AGE: Final = Scraped("acceptance_reconcile_age_seconds", "Age of the last reconcile.", ("shard",))
# 1 for the state that each counterparty's breaker is in (closed, half_open, open), 0 for the
# others.
BREAKER: Final = Scraped("acceptance_counterparty_breaker", "State of a counterparty's breaker.", ("counterparty", "state"))
# 1 where operators have paused a counterparty (step "all") or one step of it.
PAUSED: Final = Scraped("acceptance_counterparty_paused", "Whether operators have paused it.", ("counterparty", "step"))
# Messages that wait in each of the broker's queues.
QUEUE_MESSAGES: Final = Scraped("acceptance_broker_queue_messages", "Messages in a queue.", ("queue",))
# 1 where what is read at the scrape could be read, 0 where it couldn't (its metrics are then
# missing, not zero).
SCRAPE_OK: Final = Scraped("acceptance_scrape_ok", "Whether the source answered.", ("source",))
SCRAPED: Final = (
    *(CLEARINGS, CLEARINGS_OLDEST, CLEARED_LAST_MINUTE, NEWEST_ORDER_AGE, SHARD_AGE, SHARD_FOUND_BY_GAP),
    *(RECONCILE_DIFFERENCE, RECONCILE_AGE, BREAKER, PAUSED, QUEUE_MESSAGES, SCRAPE_OK),
)


# --- What the paths call --------------------------------------------------------------------------
class _Clock(Protocol):
    @property
    def now_ms(self) -> int: ...
    @property
    def measured_at(self) -> float: ...


class _Stored(Protocol):
    @property
    def counterparty(self) -> StrEnum: ...
    @property
    def action(self) -> StrEnum: ...


class ClaimedWork(Protocol):
    """As much of `clearing.store.claims.Work` as is measured; this room knows nothing of
    clearings.
    """

    @property
    def step(self) -> int: ...
    @property
    def created_ms(self) -> int: ...
    @property
    def queued_ms(self) -> int: ...
    @property
    def started_ms(self) -> int: ...
    @property
    def stored(self) -> _Stored: ...
    @property
    def clock(self) -> _Clock: ...


class Tried(Protocol):
    """As much of `clearing.store.claims.Evidence` as is measured."""

    @property
    def outcome(self) -> str: ...
    @property
    def asked(self) -> bool: ...
    @property
    def sent_at(self) -> float: ...
    @property
    def answered_at(self) -> float: ...


def observe(stage: Stage, milliseconds: float) -> None:
    """Times a stage. Two clocks that disagree make 0, never less."""
    _stages[stage].observe(max(milliseconds, 0) / 1000)


def observe_claim(work: ClaimedWork) -> None:
    """A worker took the claim."""
    now_ms = work.clock.now_ms
    observe(Stage.QUEUED_TO_CLAIMED, now_ms - work.queued_ms)
    if work.started_ms == now_ms:
        observe(Stage.COUNTER_TO_CLAIMED, now_ms - work.created_ms)


def observe_lost(counterparty: str, action: str, number: int) -> None:
    """The sweep took claims back whose workers may have made their calls."""
    ATTEMPTS.labels(counterparty, action, "lost").inc(number)


def observe_attempt(work: ClaimedWork, tried: Tried) -> None:
    """An attempt, or a status query, was written down."""
    action = "ask" if tried.asked else str(work.stored.action)
    ATTEMPTS.labels(str(work.stored.counterparty), action, str(tried.outcome)).inc()
    if not tried.asked:
        _steps[work.step].observe(max(tried.answered_at - tried.sent_at, 0))


def observe_cleared(work: ClaimedWork) -> None:
    """The order is cleared, now: the database's time of the last claim, carried on by this
    machine's clock.
    """
    now_ms = work.clock.now_ms + (clock_gettime(CLOCK_BOOTTIME) - work.clock.measured_at) * 1000
    observe(Stage.CLAIMED_TO_CLEARED, now_ms - work.started_ms)
    observe(Stage.COUNTER_TO_CLEARED, now_ms - work.created_ms)


# --- Showing them ---------------------------------------------------------------------------------
def registry() -> CollectorRegistry:
    """What this process can show: the sums of all processes that share METRICS_DIR, or its own
    values.
    """
    if not settings.METRICS_DIR:
        return REGISTRY
    _forget_the_dead(Path(settings.METRICS_DIR))
    shared = CollectorRegistry()
    MultiProcessCollector(shared, path=settings.METRICS_DIR)  # type: ignore[no-untyped-call]
    return shared


def _forget_the_dead(folder: Path) -> None:
    """A killed process leaves its live gauges behind: a leader that is gone would be counted for
    ever.
    """
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            file.unlink(missing_ok=True)


def exposition() -> bytes:
    """The metrics in Prometheus' text format."""
    return generate_latest(registry())


def serve(port: int) -> None:
    """Shows the metrics on a port of this process's own, from a thread. For the processes that
    serve no HTTP: consumer, worker, beat.
    """
    start_http_server(port, registry=registry())


def serve_if_configured() -> None:
    """`serve` on METRICS_PORT, where it is set. Called by each such process at its start."""
    if settings.METRICS_PORT:
        serve(settings.METRICS_PORT)
