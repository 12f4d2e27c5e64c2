"""What a restore of the database leaves open about an order (docs/decisions/0007): read-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from base.db import call

_FACTS: Final = """
    SELECT id, clearing_voided_before(id), clearing_is_settled(id), clearing_is_forgotten(id), clearing_not_done_since_restore(id)
    FROM unnest(%s::bigint[]) AS id
"""


@dataclass(frozen=True, slots=True)
class RestoreFacts:
    """All false for an order that is not from before a restore."""

    voided_before: bool = False  # operators voided it in the forgotten time, and nobody has released it since
    settled: bool = False  # that void leaves nothing open: nothing was sent since the restore of what isn't known
    forgotten: bool = False  # a retry may have been done in the forgotten time, under a key that was not queried since
    confirmed_not_done: bool = False  # two operators confirmed since the restore that its current step was not done


def restore_facts(clearing_ids: Sequence[int]) -> dict[int, RestoreFacts]:
    """The facts of each of these clearings, by primary key. One query."""
    if not clearing_ids:
        return {}
    return {row[0]: RestoreFacts(*row[1:]) for row in call(_FACTS, [list(clearing_ids)])}


def done_since_restore(clearing_id: int) -> list[int]:
    """The primary keys of the operations that were done since the restore: no void from before has
    named their bookings.
    """
    return [row[0] for row in call("SELECT clearing_done_since_restore(%s)", [clearing_id])]
