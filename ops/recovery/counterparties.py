"""A production that one of the counterparties is a sandbox for: real coin is bought, users are paid
with toys.

Settings can't tell: a sandbox may stand behind any name. The sandbox itself refuses every call of a
production (`production_refused`), so none of its answers is ever taken for money; a worker that
meets it says so at its start and doesn't start.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from django.conf import settings

from clearing.gateways import Counterparty, GatewayError, Gateways, gateways
from ops.recovery.probe import question

EXIT_CONFIGURATION: Final = 78
PRODUCTION_REFUSED: Final = "production_refused"  # the code of a sandbox's refusal


class _Now:
    """The machine's time; a stale signature is refused, too, and proves nothing."""

    def timestamp_ms(self) -> int:
        return time.time_ns() // 1_000_000


def refuse_sandbox() -> None:
    """Raises SystemExit(78) in production where a counterparty says that it is a sandbox. One that
    doesn't answer is an outage: no reason not to start.
    """
    if not settings.PRODUCTION:
        return
    found = sandboxes(gateways())
    if found:
        names = ", ".join(f"{counterparty.upper()}_URL" for counterparty in found)
        sys.stderr.write(f"configuration: {names} of a production: a sandbox answers there; set all three to the real services\n")
        raise SystemExit(EXIT_CONFIGURATION)


def sandboxes(answering: Gateways) -> list[Counterparty]:
    """The counterparties that refuse us because they are sandboxes; all are asked at once."""
    with ThreadPoolExecutor(len(Counterparty)) as pool:
        refusals = pool.map(lambda counterparty: _refusal(answering, counterparty), Counterparty)
        return [counterparty for counterparty, code in zip(Counterparty, refusals, strict=True) if code == PRODUCTION_REFUSED]


def _refusal(answering: Gateways, counterparty: Counterparty) -> str:
    try:
        answering.query(question(counterparty), _Now())
    except GatewayError as error:
        return error.code
    return ""
