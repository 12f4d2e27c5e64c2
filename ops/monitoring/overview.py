"""The front page's figures: the same bounded queries as the scrape's, and the orders that need a
person.
"""

from dataclasses import dataclass

from django.db import connection, transaction
from django.urls import reverse

from base.readable import duration
from clearing.gateways import Counterparty, counterparty_state
from clearing.models import Clearing
from clearing.status import Breaker, InterventionState, State
from ops.monitoring.scrape import UNFINISHED, Shard, read_figures, read_shards

PARKED_SHOWN = 10
COMPARED_SECONDS_MAX = 60.0  # twice the gap pass's overlap: beyond, it doesn't run
# From the counter's own time to cleared, over the newest: an index gives them.
LATENCY_SQL = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds), percentile_cont(0.99) WITHIN GROUP (ORDER BY seconds) FROM (
        SELECT extract(epoch FROM cleared_at) - created_ms / 1000.0 AS seconds FROM clearing_clearing
        WHERE state = 'cleared' ORDER BY cleared_at DESC LIMIT 1000) newest
"""
# What waits for a second person: a partial index gives it.
APPROVALS_SQL = "SELECT count(*) FROM clearing_intervention WHERE state = 'requested' AND expires_at > (SELECT service_now())"


@dataclass(frozen=True, slots=True)
class Tile:
    """A figure on the front page; `link` leads to its list. `asks`: anything but 0 asks a person to
    look.
    """

    title: str
    value: str
    hint: str = ""
    link: str = ""
    asks: bool = False

    @property
    def danger(self) -> bool:
        """Whether somebody should look."""
        return self.asks and self.value != "0"


@dataclass(frozen=True, slots=True)
class ShardLine:
    """A shard of the counter on the front page."""

    number: int
    newest: str
    compared: str
    found_by_gap: str
    danger: bool

    @classmethod
    def of(cls, shard: Shard) -> "ShardLine":
        newest, compared = ("-" if age is None else duration(age) for age in (shard.newest_seconds_ago, shard.compared_seconds_ago))
        late = shard.compared_seconds_ago is None or shard.compared_seconds_ago > COMPARED_SECONDS_MAX
        return cls(shard.number, newest, compared, f"{shard.found_by_gap:,}", late)


@dataclass(frozen=True, slots=True)
class Overview:
    """What the front page shows."""

    tiles: list[Tile]
    parked: list[Clearing]
    shards: list[ShardLine]


def read() -> Overview:
    """Eight bounded queries. Raises django.db.DatabaseError."""
    with transaction.atomic(), connection.cursor() as cursor:
        found, cleared, newest = read_figures(cursor)
        shards = [ShardLine.of(shard) for shard in read_shards(cursor)]
        cursor.execute(LATENCY_SQL)
        median, slow = cursor.fetchone() or (None, None)
        cursor.execute(APPROVALS_SQL)
        (approvals,) = cursor.fetchone() or (0,)
        states = counterparty_state.read()
    parked = Clearing.objects.filter(state=State.PARKED).select_related("order").order_by("-changed_at")[:PARKED_SHOWN]
    tiles = [
        *_speed(cleared, newest, median, slow),
        *(_state_tile(state, found.get(state)) for state in UNFINISHED),
        _approvals(approvals),
        _stopped(states),
    ]
    return Overview(tiles, list(parked), shards)


def _speed(cleared: int, newest: tuple[float] | None, median: float | None, slow: float | None) -> list[Tile]:
    return [
        Tile("cleared, last minute", f"{cleared:,}", f"{cleared / 60:.1f} a second"),
        Tile("counter to cleared, p50", duration(float(median)) if median is not None else "-", "newest 1,000"),
        Tile("counter to cleared, p99", duration(float(slow)) if slow is not None else "-", "newest 1,000"),
        Tile("newest order", duration(float(newest[0])) if newest else "-", "ago"),
    ]


def _state_tile(state: State, found: tuple[int, float] | None) -> Tile:
    count, oldest = found or (0, 0.0)
    link = f"{reverse('admin:clearing_clearing_changelist')}?state={state}"
    return Tile(state.value, f"{count:,}", f"oldest {duration(oldest)}" if count else "", link, asks=state == State.PARKED)


def _approvals(count: int) -> Tile:
    link = f"{reverse('admin:clearing_intervention_changelist')}?state={InterventionState.REQUESTED}"
    return Tile("to be approved", f"{count:,}", "interventions", link, asks=True)


def _stopped(now: counterparty_state.StateSnapshot) -> Tile:
    """Whom, or which steps, nobody calls at this moment: orders wait there, whatever their state
    says.
    """
    failing = [f"{name} {now.breaker(name)}" for name in Counterparty if now.breaker(name) != Breaker.CLOSED]
    paused = [f"{name}{f' step {step}' if step else ''} paused" for name, step in sorted(now.paused)]
    stopped = [*failing, *paused]
    return Tile("counterparties stopped", str(len(stopped)), ", ".join(stopped), reverse("admin:clearing_counterpartystate_changelist"), asks=True)
