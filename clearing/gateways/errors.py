"""What a call may end with instead of `Done`, named by the reaction that it demands.

    GatewayError
    ├── Retryable        surely not applied: send the same bytes again, later
    │   └── Blocked      nothing was sent: the counterparty is paused, down, limited or full
    ├── Rejected         finally refused, and kept under the key: an operator decides
    ├── UnknownOutcome   it may have been applied: query the key, resend only if it is unknown
    ├── StillPending     accepted and being worked on: query the key, later
    ├── KeyReused        the key is known there with other bytes: alarm, and park
    └── ClaimEnded       our claim is over, nothing was signed: drop the work

When in doubt: any response outside the contract (docs/contracts/) is `UnknownOutcome`. The table of
answers is in `clearing/policy/outcomes.py`.
"""

from typing import Final

from clearing.policy.outcomes import Health

DETAIL_MAX: Final = 2_000  # characters, as in the table of attempts


class GatewayError(Exception):
    """`code` is a short word (lower case, at most 64 characters) for tables and metrics; `detail`
    is for people, and cut: it may be a megabyte of a counterparty's words.

    `health` is what the answer says of the counterparty itself; `only_this_order`: it is refused to
    this order, and not to others.
    """

    health: Health = Health.WELL
    only_this_order: bool = False

    def __init__(self, code: str, detail: str = "") -> None:
        detail = detail[:DETAIL_MAX]
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class Retryable(GatewayError):  # noqa: N818 - named by the reaction, as all of these
    """Surely not applied. `counted` False: the cause lies with the counterparty or with us, not
    with the order; no attempt is counted.
    """

    def __init__(self, code: str, detail: str = "", *, retry_after_ms: int | None = None, counted: bool = True) -> None:
        super().__init__(code, detail)
        self.retry_after_ms = retry_after_ms
        self.counted = counted


class Blocked(Retryable):
    """No call was made: `code` says what stands in its way, `retry_after_ms` for how long, where
    that is known.
    """

    def __init__(self, code: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(code, retry_after_ms=retry_after_ms, counted=False)


class Rejected(GatewayError):  # noqa: N818
    """Finally refused; `body` is the problem as the counterparty keeps it under the key."""

    def __init__(self, code: str, body: bytes) -> None:
        super().__init__(code)
        self.body = body


class UnknownOutcome(GatewayError):  # noqa: N818
    """It may have been applied. `retry_after_ms`: how long the counterparty asked to wait."""

    def __init__(self, code: str, detail: str = "", *, retry_after_ms: int | None = None) -> None:
        super().__init__(code, detail)
        self.retry_after_ms = retry_after_ms


class StillPending(GatewayError):  # noqa: N818
    """The counterparty is still working on it. `retry_after_ms`: how long it asked to wait before
    the next status query.
    """

    def __init__(self, retry_after_ms: int | None = None) -> None:
        super().__init__("in_progress")
        self.retry_after_ms = retry_after_ms


class KeyReused(GatewayError):  # noqa: N818
    """The counterparty knows the key with other bytes than ours."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("key_reused", detail)


class ClaimEnded(GatewayError):  # noqa: N818
    """Raised by the clock: nobody signs a time at or after `claimed_until`."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("claim_ended", detail)
