"""Recovery on the status table: what the sweep looks for and does, and what follows a restore.

Each write is one call of a function of `sql/05_recovery.sql` or `sql/10_restore.sql`, one commit.
Reads take no locks: they pick the candidates, and the write looks again under the lanes' locks.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from base.db import call
from clearing.flow.flows import dues
from clearing.policy.outcomes import UNANSWERED
from clearing.status import State
from clearing.store import statements
from clearing.store.claims import ISOLATED_LANE, ClearingRef, read_ref, read_refs

# A database's own name: its server's, its number there, and the timeline. A dump that is loaded has
# another number, recovery begins a new timeline.
DATABASE_SELF = (
    "(SELECT system_identifier FROM pg_control_system()) || ':' || (SELECT oid FROM pg_database WHERE datname = current_database())"
    " || ':' || left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)
_RESTORE_POINT = f"INSERT INTO clearing_restorepoint (through_ms, reason, actor, database) VALUES (%s, %s, %s, {DATABASE_SELF}) RETURNING id"
_RESTORE_SAID = f"SELECT EXISTS (SELECT FROM clearing_restorepoint WHERE database = {DATABASE_SELF} AND at > service_now() - interval '1 day')"

AHEAD_LOOKED_AT: Final = 20  # rows at the far end of an index: what was written while the clock was ahead waits the longest of all
CLOSED_SECONDS: Final = 10.0  # after its breaker closed; by then nobody waits any more for what was before
_OUTLASTING: Final = """
    SELECT c.id FROM clearing_standing s
    JOIN clearing_clearing c ON c.state IN ('retrying', 'unknown') AND c.waits_for = ANY (%s) AND split_part(c.waits_for, ':', 1) = s.name
    WHERE s.breaker = 'closed' AND s.changed_at BETWEEN (SELECT service_now()) - %s * interval '1 second' AND (SELECT service_now())
        AND c.changed_at < s.changed_at AND c.due_at > (SELECT service_now()) AND c.error_code = ANY (%s)
        AND NOT EXISTS (SELECT FROM clearing_errorpolicy p WHERE p.counterparty = s.name AND p.code = c.error_code
            AND (p.backoff_base_ms IS NOT NULL OR p.backoff_cap_ms IS NOT NULL))
    ORDER BY c.due_at LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Requeued:
    """What the sweep did to one clearing: queued it (`ref`), or parked it (`order_id`,
    `parked_as`), with whom to publish then.
    """

    found: State
    ref: ClearingRef | None
    order_id: str = ""
    parked_as: str = ""


def requeue(ids: Sequence[int], *, actor: str, generation: str) -> list[Requeued]:
    """Takes back expired claims and queues what is due, of the candidates given; parks what is
    held, or poison.
    """
    rows = call(statements.REDISPATCH, {"ids": list(ids), "actor": actor, "generation": generation})
    return [Requeued(State(row.found_state), read_ref(row, "ref"), row.parked_order, row.parked_as) for row in rows]


# Of clearings that were just taken back: the epoch that their worker had claimed is the one before,
# or the same where they were parked.
_LOST: Final = """
    SELECT o.counterparty, o.action, count(*) AS number FROM (
        SELECT unnest(%(ids)s::bigint[]) AS id, unnest(%(epochs)s::int[]) AS epoch
        UNION ALL SELECT c.id, c.epoch FROM clearing_clearing c JOIN orders_syncorder s ON s.id = c.order_id WHERE s.order_id = ANY (%(parked)s)
    ) back JOIN clearing_operation o ON o.clearing_id = back.id
    JOIN clearing_attempt a ON a.operation_id = o.id AND a.epoch = back.epoch AND a.outcome = 'lost'
    GROUP BY o.counterparty, o.action
"""


def lost_attempts(requeued: Sequence[Requeued]) -> list[tuple[str, str, int]]:
    """The attempts `lost` that `requeue` appended, as (counterparty, action, number), when asked in
    the same transaction.
    """
    taken_back = [row for row in requeued if row.found == State.RUNNING]
    if not taken_back:
        return []
    refs = [row.ref for row in taken_back if row.ref is not None and not row.parked_as]
    parked = [row.order_id for row in taken_back if row.parked_as]
    rows = call(_LOST, {"ids": [ref.id for ref in refs], "epochs": [ref.epoch - 1 for ref in refs], "parked": parked})
    return [(row.counterparty, row.action, row.number) for row in rows]


def resend(candidates: Sequence[tuple[int, int]], *, generation: str) -> list[ClearingRef]:
    """Marks queued clearings, given by (id, epoch), as sent again. Returns those that still were
    queued.
    """
    ids, epochs = [pk for pk, _ in candidates], [epoch for _, epoch in candidates]
    return read_refs(call(statements.RESEND, {"ids": ids, "epochs": epochs, "generation": generation}))


def promote_lanes(user_ids: Sequence[str], *, actor: str, generation: str) -> list[ClearingRef]:
    """Queues the next order of each user who has none active."""
    return read_refs(call(statements.PROMOTE_LANES, {"users": list(user_ids), "actor": actor, "generation": generation}))


def orphaned(limit: int) -> list[int]:
    """Clearings whose claim has expired, or was taken while the clock was ahead, or whose worker
    has ended.

    Without locks: `requeue` looks again under them.
    """
    expired = (
        "SELECT id FROM clearing_clearing WHERE state = 'running' AND (claimed_until < (SELECT service_now())"
        "  OR changed_at > (SELECT service_now()) + interval '1 minute') ORDER BY claimed_until LIMIT %s"
    )
    ended = (
        "SELECT c.id FROM clearing_clearing c JOIN base_incarnation i ON i.name = c.claimed_by"
        " WHERE c.state = 'running' AND i.ended_at IS NOT NULL LIMIT %s"
    )
    return [row[0] for row in call(f"({expired}) UNION ({ended})", [limit, limit])]


# The longest due first, each counterparty's step from the one end of its index; and from the other
# end what was written while the clock was ahead.
_DUE: Final = """
    SELECT c.waits_for, c.id FROM unnest(%s::text[]) AS d (name), LATERAL (
        (SELECT id, waits_for, due_at FROM clearing_clearing
            WHERE state = ANY (clearing_due_states()) AND waits_for = d.name AND due_at <= (SELECT service_now()) ORDER BY due_at LIMIT %s)
        UNION ALL (SELECT id, waits_for, due_at FROM (SELECT id, waits_for, due_at, changed_at FROM clearing_clearing
                WHERE state = ANY (clearing_due_states()) AND waits_for = d.name AND due_at > (SELECT service_now())
                ORDER BY due_at DESC LIMIT %s) far
            WHERE changed_at > (SELECT service_now()))) c
    ORDER BY c.due_at
"""


def due(free_slots: Mapping[str, int], limit: int, *, paused: Collection[tuple[str, int]] = ()) -> list[int]:
    """Clearings whose time has come, the longest due first: for each counterparty as many as it has
    room for, and none of what is `paused`, as (counterparty, step or 0). Without locks, as
    `orphaned`.
    """
    open_dues = [name for name in dues() if not {_due(name), (_due(name)[0], 0)} & set(paused)]
    rows = call(_DUE, [[*open_dues, ""], limit, AHEAD_LOOKED_AT])
    left = dict(free_slots)
    found: list[int] = []
    for name, pk in rows:
        counterparty = _due(name)[0]
        if left.get(counterparty, limit) > 0 and len(found) < limit:
            left[counterparty] = left.get(counterparty, limit) - 1
            found.append(pk)
    return found


def outlasting(limit: int) -> list[int]:
    """Clearings that wait longer than their counterparty was away: they got no answer from it, and
    its breaker has closed since, a moment ago.

    An answer may have said how long to wait, and so may a policy: those keep their time. Without
    locks, as `orphaned`.
    """
    return [row[0] for row in call(_OUTLASTING, [list(dues()), CLOSED_SECONDS, list(UNANSWERED), limit])]


def bring_forward(ids: Sequence[int]) -> int:
    """Makes those of them that still wait due now. Returns how many."""
    return len(call("SELECT * FROM clearing_bring_forward(%s)", [list(ids)]))


def _due(name: str) -> tuple[str, int]:
    counterparty, _, step = name.partition(":")
    return counterparty, int(step or 0)


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """A queued clearing that nobody has claimed for a while."""

    id: int
    epoch: int
    lane: int
    queued_ms: int
    generation: str

    @property
    def isolated(self) -> bool:
        """Whether it is a poison candidate, which waits in the queue of one slot."""
        return self.lane == ISOLATED_LANE


def unclaimed(generation: str, *, gone_seconds: float, limit: int) -> list[Unclaimed]:
    """Queued clearings to look after: those of another broker generation, those unclaimed for long,
    spaced further apart each time, and those that were queued while the clock was ahead.

    At most `limit` a lane, the oldest: a lane that nobody drains doesn't hide the others.
    """
    rows = call(
        "SELECT c.* FROM generate_series(0, (SELECT max(lane) FROM clearing_clearing WHERE state = 'queued')) AS number,"
        " LATERAL (SELECT id, epoch, clearing_route(deaths, lane) AS lane, clearing_ms(queued_at) AS queued_ms, broker_generation AS generation"
        "  FROM clearing_clearing"
        "  WHERE state = 'queued' AND lane = number AND (broker_generation <> %s OR queued_at > (SELECT service_now())"
        "   OR (queued_at < (SELECT service_now()) - %s * interval '1 second'"
        "   AND queued_at < service_now() - %s * interval '1 second' * 2 ^ least(sends, 5))) ORDER BY queued_at LIMIT %s) c",
        [generation, gone_seconds, gone_seconds, limit],
    )
    return [Unclaimed(**row._asdict()) for row in rows]


# Users with a waiting order, one after another by the index: a lane of ten thousand orders costs as
# much as one of two.
_WAITING_USERS = (
    "WITH RECURSIVE users (user_id, number) AS ("
    " (SELECT user_id, 1 FROM clearing_clearing WHERE state = 'waiting' AND user_id > %s ORDER BY user_id LIMIT 1)"
    " UNION ALL SELECT (SELECT w.user_id FROM clearing_clearing w WHERE w.state = 'waiting' AND w.user_id > u.user_id ORDER BY w.user_id LIMIT 1),"
    "  number + 1 FROM users u WHERE u.user_id IS NOT NULL AND number < %s)"
)


def stalled_lanes(after: str, limit: int) -> tuple[list[str], str]:
    """Users with a waiting order that nothing blocks and none active. Nothing should ever make one.

    Looks at so many users `after` one; returns also whom to go on after, "" at the end.
    """
    rows = call(
        f"{_WAITING_USERS} SELECT u.user_id,"
        " NOT EXISTS (SELECT FROM clearing_clearing a WHERE a.user_id = u.user_id"
        "  AND a.state = ANY (clearing_active_states()))"
        " AND EXISTS (SELECT FROM clearing_clearing w WHERE w.user_id = u.user_id AND w.state = 'waiting' AND NOT EXISTS ("
        "  SELECT FROM clearing_clearing p WHERE p.user_id = w.user_id AND p.contract_id = w.contract_id AND p.state = 'parked'"
        "  AND (p.started_at IS NOT NULL OR (p.created_ms, p.shard, p.sequence) < (w.created_ms, w.shard, w.sequence))))"
        " FROM users u WHERE u.user_id IS NOT NULL",
        [after, limit],
    )
    return [user_id for user_id, stalled in rows if stalled], rows[-1][0] if len(rows) == limit else ""


def mark_restored(through_ms: int, *, reason: str, actor: str, limit: int = 500) -> int:
    """The database was restored from a backup: unfinished clearings are reconciled before they are
    resent from now on, and so is every order made up to `through_ms` (the counter's clock) that
    comes in later. Returns how many clearings were marked. Nothing else may run meanwhile.

    The restore point comes first, the clearings in batches of `limit`: after a failure it is
    repeated as a whole.
    """
    call(_RESTORE_POINT, [through_ms, reason[:200], actor[:150]])
    marked, after = 0, 0
    while after is not None:
        count, after = call(statements.MARK_RESTORED, {"after": after, "limit": limit})[0]
        marked += count
    return marked


def remember_voided(order_ids: Sequence[str], *, actor: str) -> None:
    """People voided these before the restore: each is held as soon as it is accepted. In the open
    transaction, which lets no order in meanwhile.
    """
    call("SELECT clearing_remember_voided(%s, %s)", [list(order_ids), actor[:150]])


def hold_voided(order_id: str, *, actor: str, generation: str) -> tuple[str, ClearingRef | None]:
    """Holds one that was remembered. Returns (what it was found as, whom to publish): its state,
    "held" by this already, "released" by two people since, or "" where it hasn't come yet.
    """
    rows = call(statements.HOLD_VOIDED, {"order": order_id, "actor": actor, "generation": generation})
    return (str(rows[0].found_state), read_ref(rows[0], "next")) if rows else ("", None)


def was_ever_restored() -> bool:
    """Whether any restore was ever said of this database, or of the backup that it comes from."""
    return bool(call("SELECT EXISTS (SELECT FROM clearing_restorepoint)", [])[0][0])


def restore_was_said() -> bool:
    """Whether `mark_restored` ran on this very database within a day: a restore point that came
    with the backup is another restore's.
    """
    return bool(call(_RESTORE_SAID, [])[0][0])
