"""Who was hit by a fault, and when each of them went on: from our own database, once everything is
quiet.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from base.db import DATABASE_UNAVAILABLE, Row, call
from ops.audit.report import percentile

AWAY_SECONDS_MAX: Final = 60
P99_COUNT_MIN: Final = 100  # below that the maximum says more
MS: Final = "extract(epoch FROM {}) * 1000"
SLOW_MS: Final = 5_000
HISTORY: Final = """
    SELECT to_char(at, 'HH24:MI:SS.MS ') || concat_ws(' ', from_state, '->', to_state, 'step', step, 'epoch', epoch, reason, actor)
    FROM clearing_statuschange WHERE clearing_id = %s AND extract(epoch FROM at) * 1000 BETWEEN %s AND %s ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class Affected:
    """Orders that a fault hit at a moment (ms since the epoch), to be told by when they next called
    (`done`: were next answered well).
    """

    series: str
    at_ms: float
    clearing_ids: Sequence[int]
    done: bool = False


def query(sql: str, params: Sequence[Any] = ()) -> list[Row]:
    """As `base.db.call`, waiting for a PostgreSQL that we have just restarted."""
    deadline = time.monotonic() + AWAY_SECONDS_MAX
    while True:
        try:
            return call(sql, params)
        except DATABASE_UNAVAILABLE:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def now_ms() -> float:
    """The database's time, which is this machine's."""
    return time.time() * 1000


def claimed_by(pids: Iterable[int]) -> list[int]:
    """The clearings that these processes hold."""
    sql = "SELECT id FROM clearing_clearing WHERE state = 'running' AND split_part(claimed_by, ':', 2) = ANY (%s)"
    return [row[0] for row in query(sql, [[str(pid) for pid in pids]])]


def in_states(*states: str) -> list[int]:
    """The clearings in these states."""
    return [row[0] for row in query("SELECT id FROM clearing_clearing WHERE state = ANY (%s)", [list(states)])]


def next_calls(affected: Affected) -> dict[int, float]:
    """Ms from the fault to each order's next call, by clearing; orders that needed none are left
    out.
    """
    wanted = "t.outcome = 'done'" if affected.done else "t.outcome <> 'lost'"
    moment = "t.answered_at" if affected.done else "t.sent_at"
    sql = (
        f"SELECT o.clearing_id, min({MS.format(moment)}) FROM clearing_operation o"  # noqa: S608 - of constants
        f" JOIN clearing_attempt t ON t.operation_id = o.id WHERE o.clearing_id = ANY (%s) AND {moment} > to_timestamp(%s / 1000.0) AND {wanted}"
        " GROUP BY o.clearing_id"
    )
    return {pk: float(ms) - affected.at_ms for pk, ms in query(sql, [list(affected.clearing_ids), affected.at_ms])}


def taken_in(since_ms: float, until_ms: float) -> list[float]:
    """Ms from placing to the first call, of the orders placed in a span that had nothing of their
    user's before them.
    """
    sql = (
        f"SELECT min({MS.format('t.sent_at')}) - c.created_ms FROM clearing_clearing c JOIN clearing_operation o ON o.clearing_id = c.id"  # noqa: S608
        " JOIN clearing_attempt t ON t.operation_id = o.id WHERE c.created_ms BETWEEN %s AND %s AND EXISTS (SELECT FROM clearing_statuschange h"
        "  WHERE h.clearing_id = c.id AND h.from_state = 'waiting' AND h.to_state = 'queued' AND h.at < c.accepted_at + interval '50 ms')"
        " GROUP BY c.id"
    )
    return [float(row[0]) for row in query(sql, [since_ms, until_ms])]


def after_answers() -> dict[str, list[float]]:
    """Ms from each answer that wasn't good to the operation's next call, by what it was evidence
    of.
    """
    sql = (
        "SELECT name, ms FROM (SELECT concat_ws('_', 'answer', a.outcome, nullif(a.code, '')) AS name, a.outcome, a.code,"
        "  extract(epoch FROM lead(a.sent_at) OVER (PARTITION BY a.operation_id ORDER BY a.sent_at, a.id) - a.answered_at) * 1000 AS ms"
        "  FROM clearing_attempt a WHERE a.outcome <> 'lost') answers"
        " WHERE outcome <> 'done' AND code <> 'unknown_key' AND ms >= 0"  # below 0: another worker had it by then
    )
    found: dict[str, list[float]] = defaultdict(list)
    for name, ms in query(sql):
        found[name].append(float(ms))
    return found


def summary(series: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Count, median, 99th percentile (only of many) and maximum of each series, in ms; of an empty
    one the count alone.
    """
    return {name: _figures(sorted(values)) for name, values in sorted(series.items())}


def _figures(ordered: Sequence[float]) -> dict[str, float]:
    if not ordered:
        return {"count": 0}
    figures: dict[str, float] = {"count": len(ordered), "p50_ms": percentile(ordered, 50) or 0.0}
    if len(ordered) >= P99_COUNT_MIN:
        figures["p99_ms"] = percentile(ordered, 99) or 0.0
    return {**figures, "max_ms": round(ordered[-1], 1)}


def measure(affected: Iterable[Affected], spans: Iterable[tuple[str, float, float]]) -> dict[str, dict[str, float]]:
    """Each series' recovery times."""
    series: dict[str, list[float]] = defaultdict(list)
    for one in affected:
        series[one.series] += next_calls(one).values()
    for name, since_ms, until_ms in spans:
        series[name] += taken_in(since_ms, until_ms)
    return summary({**series, **after_answers()})


def slow(affected: Iterable[Affected]) -> list[str]:
    """What took longer than it should, with the history of one order of each fault: where to begin
    to look.
    """
    found = []
    for one in affected:
        late = {pk: ms for pk, ms in next_calls(one).items() if ms > SLOW_MS}
        if late:
            pk = max(late, key=lambda pk: late[pk])
            found.append(
                f"slow: {one.series} at {_clock(one.at_ms)}: {len(late)} of {len(one.clearing_ids)} orders, {late[pk] / 1000:.1f} s the longest:"
            )
            found += [f"    {text}" for (text,) in query(HISTORY, [pk, one.at_ms - SLOW_MS, one.at_ms + late[pk] + SLOW_MS])]
    return found


def _clock(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%T.%f")[:-3]
