"""What the demo looks at while orders clear: counts by state, rate and latency of its own orders,
as a table or as lines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from django.db import connection
from rich.table import Table

from base.readable import duration
from clearing.status import State

# Only orders after the demo's beginning, by primary key, so that a used database is no burden.
PROGRESS_SQL = """
    SELECT count(*), percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds), percentile_cont(0.99) WITHIN GROUP (ORDER BY seconds)
    FROM (SELECT extract(epoch FROM cleared_at) - created_ms / 1000.0 AS seconds FROM clearing_clearing WHERE id > %s AND state = 'cleared') cleared
"""
STATES_SQL = "SELECT state, count(*) FROM clearing_clearing WHERE id > %s GROUP BY state"
SHOWN_STATES = (State.WAITING, State.QUEUED, State.RUNNING, State.RETRYING, State.PENDING, State.UNKNOWN, State.PARKED, State.CLEARED)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at the demo's orders."""

    at: float  # monotonic, seconds
    placed: int
    by_state: Mapping[str, int]
    p50_seconds: float | None
    p99_seconds: float | None

    @property
    def cleared(self) -> int:
        """How many are cleared."""
        return self.by_state.get(State.CLEARED, 0)

    @property
    def accepted(self) -> int:
        """How many came in."""
        return sum(self.by_state.values())


def newest_clearing() -> int:
    """The primary key that the demo's clearings lie beyond. Raises django.db.DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(id), 0) FROM clearing_clearing")
        return int((cursor.fetchone() or (0,))[0])


def look(since: int, *, placed: int, at: float) -> Snapshot:
    """Reads the clearings beyond `since`. Raises django.db.DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute(STATES_SQL, [since])
        by_state = dict(cursor.fetchall())
        cursor.execute(PROGRESS_SQL, [since])
        _, median, slow = cursor.fetchone() or (0, None, None)
    return Snapshot(at, placed, by_state, None if median is None else float(median), None if slow is None else float(slow))


@dataclass(slots=True)
class RecentSnapshots:
    """The last looks, for a rate over a few seconds."""

    seconds: float = 3.0
    looks: list[Snapshot] = field(default_factory=list)

    def add(self, snapshot: Snapshot) -> None:
        """Keeps what lies within the time."""
        self.looks = [look for look in self.looks if snapshot.at - look.at <= self.seconds] + [snapshot]

    @property
    def rate(self) -> float:
        """Orders cleared a second, over the looks kept."""
        first, last = self.looks[0], self.looks[-1]
        return (last.cleared - first.cleared) / (last.at - first.at) if last.at > first.at else 0.0


def live_table(recent: RecentSnapshots, count: int) -> Table:
    """The last look as a table."""
    now = recent.looks[-1]
    table = Table(title="Orders on their way", title_justify="left", min_width=46)
    table.add_column("")
    table.add_column("orders", justify="right")
    table.add_row("placed", f"{now.placed:,} of {count:,}")
    table.add_row("accepted", f"{now.accepted:,}")
    for state in SHOWN_STATES:
        shown = now.by_state.get(state, 0)
        style = {State.CLEARED: "green", State.PARKED: "red"}.get(state, "") if shown else "dim"
        table.add_row(state.value, f"{shown:,}", style=style)
    table.add_section()
    table.add_row("cleared a second", f"{recent.rate:.0f}")
    table.add_row("counter to cleared, p50 / p99", f"{_shown(now.p50_seconds)} / {_shown(now.p99_seconds)}")
    return table


def line(recent: RecentSnapshots, count: int) -> str:
    """The last look as a line, where there is no terminal."""
    now = recent.looks[-1]
    others = ", ".join(f"{number:,} {state}" for state, number in sorted(now.by_state.items()) if state != State.CLEARED) or "none in flight"
    return (
        f"placed {now.placed:,} of {count:,}; cleared {now.cleared:,} ({recent.rate:.0f}/s); {others};"
        f" p50 {_shown(now.p50_seconds)}, p99 {_shown(now.p99_seconds)}"
    )


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)
