"""The calls of the database functions that every order passes through, each written once: the
service runs them by psycopg2, the benchmarks' floor by asyncpg.

Arguments are named, so that a parameter added to a function shifts no other. Columns are read by
name. A composite `clearing_ref` comes as five columns, `next_id`, `next_epoch` and so on.
"""

import re
from functools import cache
from typing import Final

_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s")


def ref_columns(name: str) -> str:
    """The columns of a composite `clearing_ref`."""
    return ", ".join(f"({name}).{column} AS {name}_{column}" for column in ("id", "epoch", "step", "lane", "queued_ms"))


def function_call(function: str, *arguments: str, columns: str = "*") -> str:
    """A SELECT that calls the function with named arguments: `epoch` goes to the parameter
    `p_epoch`, from the placeholder `%(epoch)s`. A type may follow (`requests::bytea[]`).
    """
    named = []
    for argument in arguments:
        name, cast, kind = argument.partition("::")
        named.append(f"p_{name} => %({name})s{cast}{kind}")
    return f"SELECT {columns} FROM {function}({', '.join(named)})"


@cache
def numbered(statement: str) -> tuple[str, tuple[str, ...]]:
    """The statement with `$1`, `$2` … as asyncpg takes them, and the arguments' names in that
    order.
    """
    names = tuple(dict.fromkeys(_PLACEHOLDER.findall(statement)))
    return _PLACEHOLDER.sub(lambda found: f"${names.index(found[1]) + 1}", statement), names


_CLAIM: Final = ("id", "epoch", "user", "worker", "operation", "asked", "sent_ms_ago", "answered_ms_ago")

_RESIDUE: Final = ("slippage", "surplus", "dust")
_SEEN: Final = ("id", "epoch", "state", "operation", "operation_state")
_OPERATOR: Final = ("intervention", "person", "person_id")
_IN_TRANSIT: Final = ("claim_seconds", "transit_seconds")
_DECIDED: Final = f"outcome, not_before, {ref_columns('next')}"

# Intake, and what every order passes through.
ACCEPT: Final = function_call(
    "clearing_accept",
    *(
        "orders",
        "lanes",
        "counterparties::text[]",
        "actions::text[]",
        "keys",
        "requests::bytea[]",
        "flow",
        "actor",
        "generation",
        "restored",
        "limited::boolean[]",
        "user_usdt_max",
        "key_retention_seconds",
    ),
)
HOLD: Final = function_call("clearing_hold", "order", "code", "actor", "generation", columns=f"found_state, {ref_columns('next')}")
CLAIM: Final = function_call("clearing_claim_3", "id", "epoch", "worker", "claim_seconds", "alone")
CLAIM_AGAIN: Final = function_call("clearing_claim_again_3", "id", "epoch", "worker")
RECORD_TRY: Final = function_call(
    "clearing_record_try",
    *("operation", "epoch", "worker", "asked", "sent_ms_ago", "answered_ms_ago", "outcome", "code", "detail", "response"),
)
STEP_DONE: Final = function_call(
    "clearing_step_done",
    *(*_CLAIM, "response", "step", "part", "counterparty", "action", "key", "request", "in_place", "claim_seconds", "generation", "parks", "holds"),
    columns=f"outcome, operation_id, now_ms, claimed_until_ms, sent_seconds_ago, {ref_columns('ref')}, {ref_columns('next')}",
)
FINISH: Final = function_call(
    "clearing_finish", *(*_CLAIM, "step", "response", *_RESIDUE, "generation"), columns=f"outcome, hold_code, {ref_columns('next')}"
)
SETTLE: Final = function_call(
    "clearing_settle",
    *(*_CLAIM, "outcome", "code", "detail", "response", "state", "operation_state", "due_ms", "counted", "generation"),
    columns=f"outcome, {ref_columns('next')}",
)

# What operators do.
_RETRY: Final = (*_SEEN, "actor", "actor_id", "reason", "part", "revision", "key", "request", "generation")
RETRY: Final = function_call("clearing_retry", *_RETRY, columns=f"outcome, {ref_columns('ref')}")
ASK_NEXT: Final = function_call("clearing_ask_next", *_RETRY, columns=f"outcome, {ref_columns('ref')}")
REQUEST_INTERVENTION: Final = function_call(
    "clearing_ask",
    *(*_SEEN, "held_at", "kind", "reason", "reference", "amount", "bought", "min_lot", "document", "actor", "actor_id", "hours", "generation"),
    columns=f"outcome, intervention, {ref_columns('next')}",
)
RELEASE: Final = function_call("clearing_release", *_OPERATOR, "generation", columns=_DECIDED)
CONFIRM_DONE: Final = function_call(
    "clearing_confirm_done",
    *(*_OPERATOR, *_IN_TRANSIT, "response", "code", "holds", "step", "part", "counterparty", "action", "key", "request", "generation"),
    columns=_DECIDED,
)
CONFIRM_NOT_DONE: Final = function_call("clearing_confirm_not_done", *_OPERATOR, *_IN_TRANSIT, "response", "code", columns=_DECIDED)
VOID: Final = function_call("clearing_void", *_OPERATOR, *_IN_TRANSIT, "last_step", "bookings::jsonb", "generation", columns=_DECIDED)
FINISH_CONFIRMED: Final = function_call(
    "clearing_finish_confirmed",
    *("id", "epoch", "step", "user", "worker", *_RESIDUE, "generation"),
    columns=f"outcome, hold_code, {ref_columns('next')}",
)
PARK_CONFIRMED: Final = function_call(
    "clearing_park_confirmed", "id", "epoch", "user", "worker", "code", "generation", columns=f"outcome, {ref_columns('next')}"
)
ON_ITS_WAY_UNTIL: Final = function_call("clearing_on_its_way_until", "id", *_IN_TRANSIT, columns="clearing_on_its_way_until AS until")
REMIND: Final = function_call("clearing_remind", "seconds", "limit", "window")
REMIND_UNKNOWN: Final = function_call("clearing_remind_unknown", "seconds", "limit", "window")

# What the sweep does, and what follows a restore.
REDISPATCH: Final = function_call(
    "clearing_redispatch", "ids", "actor", "generation", columns=f"found_state, parked_order, parked_as, {ref_columns('ref')}"
)
RESEND: Final = function_call("clearing_resend", "ids", "epochs", "generation")
BOUND_MINUTE: Final = function_call("clearing_bound_minute", "max", "counterparty", "actor")
PROMOTE_LANES: Final = function_call("clearing_promote_lanes", "users", "actor", "generation")
MARK_RESTORED: Final = function_call("clearing_mark_restored", "after", "limit")
HOLD_VOIDED: Final = function_call("clearing_hold_voided", "order", "actor", "generation", columns=f"found_state, {ref_columns('next')}")
