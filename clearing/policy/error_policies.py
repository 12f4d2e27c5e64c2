"""Operators' decisions about single errors, on top of the table of outcomes: read from
`ErrorPolicy`, cached for a few seconds.

A policy may make an outcome less certain, never more (design, rule 7). The admin refuses anything
else; so does reading, whoever wrote the row; and `soften` couldn't do it even then.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog
from django.conf import settings

from base.alarms import alarm
from base.db import DATABASE_UNAVAILABLE, Row, call
from clearing.policy.backoff import Backoff
from clearing.policy.outcomes import may_become, outcomes_of
from clearing.status import Outcome

log = structlog.get_logger(__name__)
POLICY_OUTCOMES: Final = (Outcome.UNKNOWN, Outcome.PENDING, Outcome.RETRYABLE, Outcome.REJECTED)
READ_SECONDS: Final = 3.0  # how long a process uses what it read
MS_MAX: Final = 24 * 3_600_000
_SQL: Final = "SELECT counterparty, code, outcome, attempts_max, backoff_base_ms, backoff_cap_ms, deadline_seconds FROM clearing_errorpolicy"


@dataclass(frozen=True, slots=True)
class Policy:
    """A field that is None: the default."""

    outcome: Outcome | None = None
    attempts_max: int | None = None
    backoff_base_ms: int | None = None
    backoff_cap_ms: int | None = None
    deadline_seconds: int | None = None

    def attempts(self) -> int:
        """Sure failures before the order parks."""
        return self.attempts_max or int(settings.CLEARING_ATTEMPTS_MAX)

    def backoff(self) -> Backoff:
        """The pauses between tries."""
        base_ms = self.backoff_base_ms or settings.RETRY_BASE_MS
        return Backoff(base_ms, max(self.backoff_cap_ms or settings.RETRY_CAP_MS, base_ms))

    def soften(self, outcome: Outcome) -> Outcome:
        """The outcome as the policy has it; the table's own where the policy would make it more
        certain.
        """
        return self.outcome if self.outcome is not None and may_become(outcome, self.outcome) else outcome


AS_EVERYWHERE: Final = Policy()
NOT_READ: Final = Policy(outcome=Outcome.UNKNOWN)  # of a process that hasn't read them yet: what they may do at most


def refusals(
    code: str, outcome: str, attempts_max: int | None, backoff_base_ms: int | None, backoff_cap_ms: int | None, deadline_seconds: int | None
) -> dict[str, str]:
    """What is wrong with a policy, by field; empty for a good one. Asks no database."""
    found = {}
    if outcome and outcome not in POLICY_OUTCOMES:
        found["outcome"] = f"{outcome} is none of {', '.join(POLICY_OUTCOMES)}"
    elif outcome and not all(may_become(own, Outcome(outcome)) for own in outcomes_of(code)):
        own = ", ".join(sorted(outcomes_of(code)))
        found["outcome"] = f"{code} is {own}: a policy may make it less certain (unknown), never more; nothing but evidence does that"
    numbers = {
        "attempts_max": attempts_max,
        "backoff_base_ms": backoff_base_ms,
        "backoff_cap_ms": backoff_cap_ms,
        "deadline_seconds": deadline_seconds,
    }
    found |= {name: "leave it empty, or set it to 1 or more" for name, number in numbers.items() if number is not None and number < 1}
    found |= {name: f"{MS_MAX} ms (a day) at most" for name in ("backoff_base_ms", "backoff_cap_ms") if (numbers[name] or 0) > MS_MAX}
    if (backoff_base_ms or settings.RETRY_BASE_MS) > (backoff_cap_ms or settings.RETRY_CAP_MS):
        found.setdefault("backoff_cap_ms", "lower than where the backoff starts")
    return found


def accepted(rows: Sequence[Row]) -> dict[tuple[str, str], Policy]:
    """The policies of these rows; one that the admin would refuse is left out, with an alarm."""
    policies = {}
    for counterparty, code, outcome, *numbers in rows:
        problems = refusals(code, outcome, *numbers)
        if problems:
            alarm("policy_refused", "an error policy isn't obeyed", counterparty=counterparty, error_code=code, problems=problems)
        else:
            policies[counterparty, code] = Policy(Outcome(outcome) if outcome else None, *numbers)
    return policies


class Policies:
    """The policies as this process last read them. Safe in threads."""

    def __init__(self) -> None:
        self._policies: Mapping[tuple[str, str], Policy] = {}
        self._rows: list[Row] = []
        self._read_at = float("-inf")
        self._was_read = False
        self._first_read = threading.Lock()

    def of(self, counterparty: str, code: str) -> Policy:
        """The policy for an error of a counterparty; the last known one while PostgreSQL is
        unavailable.
        """
        if not self._was_read:
            with self._first_read:  # nothing is known yet: the other threads wait for it
                if not self._was_read:
                    self._read_at = monotonic()
                    self._read()
        elif monotonic() - self._read_at > READ_SECONDS:
            self._read_at = monotonic()  # first, so that one thread reads and the others go on with what is known
            self._read()
        return self._policies.get((counterparty, code), AS_EVERYWHERE if self._was_read else NOT_READ)

    def _read(self) -> None:
        try:
            rows = call(_SQL, [])
        except DATABASE_UNAVAILABLE as error:
            log.warning("error policies not read", error=str(error).strip(), fix="nothing: what was known goes on to hold")
            return
        if rows != self._rows:  # so that a bad row raises its alarm once, not every few seconds
            self._policies, self._rows = accepted(rows), rows
        self._was_read = True
