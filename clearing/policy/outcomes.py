"""What each answer of a counterparty is evidence of, in one table (design, rule 7).

A policy (`clearing/policy/error_policies.py`) may make an outcome less certain, never more:
MAY_BECOME is all that it may do.
"""

from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from clearing.status import Outcome


class Health(StrEnum):
    """What an answer says of the counterparty itself, whatever it says of the operation."""

    WELL = "well"
    FAILING = "failing"  # counts towards opening its breaker
    FORBIDDING = "forbidding"  # this request, its signature or its right: it counts against its order only, as long as it isn't refused to others too
    LIMITING = "limiting"  # wants fewer calls, of this order's user at least
    LIMITING_ALL = "limiting_all"  # says that it wants fewer calls of everybody


@dataclass(frozen=True, slots=True)
class Rule:
    """`counted`: it costs the order an attempt. `parks`: the order parks at once, with an alarm,
    since no automatic reaction would be safe.
    """

    outcome: Outcome
    counted: bool = False
    health: Health = Health.WELL
    parks: bool = False


UNSENT: Final = "unsent"  # no byte of the request was sent
LOST: Final = "lost"  # it was sent, or may have been, and no answer came
ANY: Final = "*"
STALE: Final = "signature_stale"
UNKNOWN_KEY: Final = "unknown_key"
KEY_REUSED: Final = "key_reused"
KEY_EXPIRED: Final = "key_expired"  # older than its counterparty keeps keys: sending it again could do it twice

_SURELY_NOT: Final = Rule(Outcome.RETRYABLE, counted=True, health=Health.FAILING)
_NOT_KNOWN: Final = Rule(Outcome.UNKNOWN, health=Health.FAILING)
_REFUSED: Final = Rule(Outcome.REJECTED)
_TURNED_AWAY: Final = Rule(Outcome.RETRYABLE, health=Health.FORBIDDING)  # counted by the guard, where only this order is turned away

TABLE: Final[dict[tuple[int | str, str], Rule]] = {
    # what came, its code
    (UNSENT, "connection_refused"): _SURELY_NOT,
    (UNSENT, "connect_timeout"): _SURELY_NOT,
    (UNSENT, "name_not_found"): _SURELY_NOT,
    (UNSENT, "tls_failed"): _SURELY_NOT,
    (UNSENT, "request_unsendable"): Rule(Outcome.RETRYABLE, counted=True),  # an internal error
    (LOST, "timeout"): _NOT_KNOWN,
    (LOST, "connection_lost"): _NOT_KNOWN,
    (LOST, "transfer_failed"): _NOT_KNOWN,
    (LOST, "unreadable_body"): Rule(Outcome.UNKNOWN),
    (200, ""): Rule(Outcome.DONE),  # if it can be read
    (202, "in_progress"): Rule(Outcome.PENDING),
    (409, "in_progress"): Rule(Outcome.PENDING),
    (400, "invalid_request"): _REFUSED,
    (400, "insufficient_funds"): _REFUSED,
    (400, "order_unknown"): _REFUSED,
    (400, "amount_invalid"): _REFUSED,
    (400, "below_min_lot"): _REFUSED,
    (404, "account_unknown"): _REFUSED,
    (410, "contract_closed"): _REFUSED,
    (401, STALE): _TURNED_AWAY,  # signed anew, once, in place; what is refused then is a clock
    (401, ANY): _TURNED_AWAY,
    (403, ANY): _TURNED_AWAY,
    (422, KEY_REUSED): Rule(Outcome.UNKNOWN, parks=True),
    (429, ANY): Rule(Outcome.RETRYABLE, health=Health.LIMITING),
}
UNANSWERED: Final = frozenset(code for (came, code), rule in TABLE.items() if came in {UNSENT, LOST} and rule.health == Health.FAILING)
NO_EVIDENCE: Final = Rule(Outcome.UNKNOWN)  # outside the contract: the status query tells

MAY_BECOME: Final[dict[Outcome, frozenset[Outcome]]] = {
    Outcome.REJECTED: frozenset({Outcome.UNKNOWN}),  # not retryable: its key gives the same rejection again, for ever
    Outcome.RETRYABLE: frozenset({Outcome.UNKNOWN}),
    Outcome.PENDING: frozenset({Outcome.UNKNOWN}),
    Outcome.UNKNOWN: frozenset(),  # nothing but evidence makes it anything else
    Outcome.DONE: frozenset(),
}


def rule_of(came: int | str, code: str) -> Rule:
    """What a status (or UNSENT, LOST) with a code is. Any 5xx is unknown, and so is what the table
    doesn't have.
    """
    rule = TABLE.get((came, code)) or TABLE.get((came, ANY))
    if rule is not None:
        return rule
    server_failed = came == LOST or (isinstance(came, int) and came >= HTTPStatus.INTERNAL_SERVER_ERROR)
    return _NOT_KNOWN if server_failed else NO_EVIDENCE


def outcomes_of(code: str) -> frozenset[Outcome]:
    """Every outcome that the table gives a code by its name; unknown for one that it doesn't
    name.
    """
    return frozenset(rule.outcome for (_, named), rule in TABLE.items() if named == code) or frozenset({Outcome.UNKNOWN})


def may_become(outcome: Outcome, wanted: Outcome) -> bool:
    """Whether a policy may call `outcome` `wanted`: the same, or less certain."""
    return wanted == outcome or wanted in MAY_BECOME.get(outcome, frozenset())
